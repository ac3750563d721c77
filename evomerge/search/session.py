"""One session of a search: jobs in flight, and what is written down when one lands.

Everything that is scored goes through here (candidates, completed estimates, finals), so that
several kinds of jobs can be in flight at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, TypeAlias

from evomerge.errors import SearchError
from evomerge.execute.protocol import Executor, Job
from evomerge.recipe import Recipe
from evomerge.run.attempts import MOST, Attempts
from evomerge.run.history import Candidate, outcome_fields
from evomerge.run.journal import Event
from evomerge.run.logbook import Logbook
from evomerge.scores import Failure, Outcome, Scores, Split
from evomerge.search.ranking import Ranking

Purpose: TypeAlias = Literal["search", "complete", "validation", "test"]
"""What a job is for: a candidate's first scores, the rest of an estimate, or a final split."""

SAME_FAILURES = 10
"""Candidates that may fail in the same way one after the other, before the search stops."""


@dataclass(frozen=True)
class Window:
    """Which earlier outcomes a fidelity policy wants to know.

    Attributes:
        recent: how many of the latest.
        whole: only those scored on all documents.
    """

    recent: int
    whole: bool


class Session:
    """Runs jobs for candidates and journals what came out of them.

    Args:
        logbook: takes in the events.
        executor: makes the executor, when the first job is submitted.
        recipe_of: builds a candidate's recipe.
        ranking: what outcomes come to, and who leads.
        window: what a job tells of earlier candidates; None where all documents are scored.
        attempts: jobs in which earlier processes have ended.
        publish: called with the leading candidates when they change.

    Attributes:
        history: what the journal says.
        leading: who leads on the search documents.
    """

    def __init__(
        self,
        logbook: Logbook,
        executor: Callable[[], Executor],
        recipe_of: Callable[[Candidate], Recipe],
        ranking: Ranking,
        window: Window | None,
        attempts: Attempts,
        publish: Callable[[Sequence[Candidate]], None],
    ) -> None:
        self.logbook, self.history, self.ranking = logbook, logbook.history, ranking
        self.window, self.publish = window, publish
        self.leading = ranking.incumbents(self.history.candidates)
        self._make, self._recipe_of, self._attempts = executor, recipe_of, attempts
        self._flying: dict[int, tuple[Candidate, Purpose]] = {}
        self._held: list[Candidate] = []
        self._jobs = 0
        self._failures: list[Failure] = []

    @cached_property
    def executor(self) -> Executor:
        """Where jobs run; made when it is first asked for."""
        return self._make()

    def close(self) -> None:
        """Close the executor, if one was made."""
        if "executor" in self.__dict__:
            self.executor.close()

    def publish_leading(self) -> None:
        """Publish the winner or, before there is one, who leads."""
        leading = [self.history.winner] if self.history.winner else self.leading
        if leading:
            self.publish(leading)

    @property
    def in_flight(self) -> int:
        """How many candidates wait for an outcome."""
        return len(self._flying) + len(self._held)

    def score(self, candidates: Sequence[Candidate], purpose: Purpose = "search") -> None:
        """Score candidates and wait for all of them."""
        self.submit(candidates, purpose)
        while self.in_flight:
            self.wait()

    def submit(self, candidates: Iterable[Candidate], purpose: Purpose = "search") -> None:
        """Start to score candidates.

        A candidate whose recipe is scored already, or is in flight, gets those scores.
        """
        jobs = []
        for candidate in candidates:
            if purpose == "search" and self._is_settled(candidate):
                continue
            job = self._job(candidate, purpose)
            self._flying[job.id] = candidate, purpose
            count = self._attempts.count(f"{candidate.number} {job.split}")
            if count >= MOST:
                self._record(job.id, _lost(count))
            else:
                jobs.append(job)
        if jobs:
            self.executor.submit(jobs)

    def wait(self) -> None:
        """Wait for the next outcome and journal it.

        Raises:
            EvomergeError: the search cannot go on.
        """
        job, outcome = self.executor.next()
        self._record(job.id, outcome)

    def _is_settled(self, candidate: Candidate) -> bool:
        """Give a candidate the scores of an earlier one of its recipe, or let it wait for them."""
        alike = self.history.alike(candidate)
        scored = next((item for item in alike if item.status == "scored"), None)
        if scored is not None:
            self._tell(candidate, scored.outcomes["search"], scored)
        elif any(item.status == "open" for item in alike):
            self._held.append(candidate)
        else:
            return False
        return True

    def _job(self, candidate: Candidate, purpose: Purpose) -> Job:
        self._jobs += 1
        recipe = self._recipe_of(candidate)
        split: Split = "search" if purpose == "complete" else purpose
        job = Job(self._jobs, candidate.number, recipe, split, halvings=self.history.halvings)
        if purpose != "search" or candidate.incumbent is None or self.window is None:
            return job
        incumbent = self.history.candidates[candidate.incumbent].scores("search")
        return replace(job, incumbent=incumbent, earlier=self._earlier(candidate, self.window))

    def _earlier(self, candidate: Candidate, window: Window) -> tuple[Scores, ...]:
        """Return the scores, known when a candidate's generation began, that its own build on."""
        known = sorted(self.history.told[: candidate.known], key=lambda item: item.number)
        scores = [item.told for item in known if isinstance(item.told, Scores)]
        wanted = [item for item in scores if not (window.whole and item.expected)]
        return tuple(wanted[-window.recent :])

    def _record(self, job: int, outcome: Outcome) -> None:
        """Journal the outcome of a job, and settle the candidates that waited for it."""
        candidate, purpose = self._flying.pop(job)
        if purpose == "search":
            self._tell(candidate, outcome)
            waiting = [item for item in self._held if item.digest == candidate.digest]
            self._held = [item for item in self._held if item.digest != candidate.digest]
            self.submit(waiting)
            return
        event: Event = {"event": "score", "candidate": candidate.number, "split": purpose}
        if purpose == "complete":
            event = {"event": "complete", "candidate": candidate.number}
            outcome, values = self._valued(outcome)
            event |= {} if values is None else {"values": list(values)}
        self._write(event | outcome_fields(outcome), outcome)
        if purpose == "complete":
            self._take_lead(candidate)

    def _tell(
        self, candidate: Candidate, outcome: Outcome, scored: Candidate | None = None
    ) -> None:
        outcome, values = self._valued(outcome)
        event: Event = {"event": "tell", "candidate": candidate.number}
        event |= outcome_fields(outcome) if scored is None else {"same_as": scored.number}
        event |= {} if values is None else {"values": list(values)}
        self._write(event, outcome)
        self._take_lead(candidate)

    def _valued(self, outcome: Outcome) -> tuple[Outcome, tuple[float, ...] | None]:
        """Return an outcome with its values; without finite values it is a failure."""
        if isinstance(outcome, Failure):
            return outcome, None
        values = self.ranking.values(outcome)
        if all(map(math.isfinite, values)):
            return outcome, values
        return Failure("evaluate", "The fitness is not a finite number."), None

    def _write(self, event: Event, outcome: Outcome) -> None:
        if isinstance(outcome, Scores) and outcome.halvings > self.history.halvings:
            self.logbook.write({"event": "memory", "halvings": outcome.halvings})
        self.logbook.write(event, outcome)
        self._watch(outcome)

    def _take_lead(self, candidate: Candidate) -> None:
        leading = self.ranking.incumbents([*self.leading, candidate])
        if leading != self.leading:
            self.leading = leading
            if self.history.winner is None:
                self.publish(leading)

    def _watch(self, outcome: Outcome) -> None:
        """Stop a search in which nothing but the same failure happens.

        Raises:
            SearchError: that is so.
        """
        if not isinstance(outcome, Failure) or outcome not in self._failures[-1:]:
            self._failures.clear()
        if isinstance(outcome, Failure):
            self._failures.append(outcome)
        if len(self._failures) >= SAME_FAILURES:
            raise SearchError(
                f"The last {len(self._failures)} candidates failed in the same way "
                f"({outcome_text(self._failures[-1])}), so the search has stopped; mend the cause, "
                "then go on with `evomerge resume`."
            )


def outcome_text(failure: Failure) -> str:
    """Return a failure as `stage: reason`."""
    return f"{failure.stage}: {failure.reason.rstrip('.')}"


def _lost(count: int) -> Failure:
    return Failure(
        "lost", f"{count} processes ended, without a word, while this candidate was scored."
    )
