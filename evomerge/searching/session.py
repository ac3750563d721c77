"""One session of a search: makes jobs of candidates, and journals the outcomes."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from heapq import nlargest
from typing import Literal, TypeAlias

from evomerge.errors import SearchError
from evomerge.execute.protocol import Executor, Job
from evomerge.optimize.descent import Leg, Reached
from evomerge.recipe import Recipe
from evomerge.run.attempts import MAX_ATTEMPTS, Attempts
from evomerge.run.history import BASE, Candidate, outcome_fields
from evomerge.run.journal import Event
from evomerge.run.logbook import Logbook
from evomerge.scores import Failure, Outcome, Scores, Split, violation
from evomerge.searching.ranking import Ranking, best_of, front_of, leading

log = logging.getLogger(__name__)

Purpose: TypeAlias = Literal["search", "complete", "validation", "test"]
"""What a job is for.

`search`: the first scores of a candidate. `complete`: scores on all search documents, in place of
an estimate. `validation`, `test`: the scores of a finalist on this split.
"""

EXAMPLES = 3
"""Documents of each task whose prompts and answers are kept, of baselines and of the winner."""

SAME_FAILURES = 10
"""The usual `Session.most_failures`."""


class Session:
    """Runs jobs for candidates and journals their outcomes.

    Args:
        make_executor: makes the executor; called when the first job is submitted.
        recent: largest number of earlier candidates that a race is given; None if every candidate
            is scored on all documents.
        publish: is called with the incumbents and the best of them whenever they change, and with
            the final front and the winner.
        as_itself: returns the recipe of the parent itself, if a candidate is the baseline of a
            parent that is another model: the parent is scored on validation and test documents.
        stop: returns whether a person has asked the search to stop.
        bases: the base, numbered `BASE`, if it is to be tested beside the winner.
    """

    def __init__(
        self,
        logbook: Logbook,
        make_executor: Callable[[], Executor],
        recipe_of: Callable[[Candidate], Recipe],
        ranking: Ranking,
        recent: int | None,
        attempts: Attempts,
        publish: Callable[[Sequence[Candidate], Candidate], None],
        as_itself: Callable[[Candidate], Recipe | None] = lambda candidate: None,
        stop: Callable[[], bool] = lambda: False,
        bases: Sequence[Candidate] = (),
    ) -> None:
        self._as_itself, self._stop, self.bases = as_itself, stop, bases
        self.logbook, self.history, self.ranking = logbook, logbook.history, ranking
        self.publish = publish
        self.recent = recent
        self.incumbents = leading(ranking, self.history.candidates)
        self._make_executor, self._recipe_of, self._attempts = make_executor, recipe_of, attempts
        self._proposed: dict[int, Recipe] = {}
        """Recipes that were proposed in this session and have no outcome yet, by candidate."""
        self._running: dict[int, tuple[Candidate, Purpose]] = {}
        """The jobs in flight, by id."""
        self._duplicates: dict[str, list[Candidate]] = {}
        """Candidates that wait for the outcome of another one with the same recipe, by digest."""
        self._jobs = 0
        self._failures: list[Failure] = []
        self.most_failures: float = SAME_FAILURES
        """Number of equal failures, one after the other, at which the search stops."""

    @cached_property
    def executor(self) -> Executor:
        """The executor, made at the first use."""
        return self._make_executor()

    def close(self) -> None:
        """Close the executor, if it was made."""
        if "executor" in self.__dict__:
            self.executor.close()

    def publish_best(self) -> None:
        """Publish the winner; before there is one, the incumbents."""
        best, front = best_of(self.history, self.ranking), front_of(self.history, self.ranking)
        if best is not None:
            self.publish(front, best)

    def add(self, candidate: Candidate, recipe: Recipe) -> None:
        """Keep the recipe of a new candidate, so that its job need not make it again."""
        self._proposed[candidate.number] = recipe

    @property
    def is_stopping(self) -> bool:
        """Whether no further candidate shall be begun, since a person has asked for that."""
        return self._stop()

    @property
    def in_flight(self) -> int:
        """Number of candidates that wait for an outcome."""
        return len(self._running) + sum(map(len, self._duplicates.values()))

    def score(self, candidates: Sequence[Candidate], purpose: Purpose = "search") -> None:
        """Score candidates and wait for all outcomes; EvomergeError: the search cannot go on.

        If the search is asked to stop, candidates that have not begun stay open.
        """
        if purpose != "search" and candidates:
            self.logbook.note_finals(purpose, len(candidates))
        self.submit(candidates, purpose)
        while self.in_flight:
            self.wait()
            if purpose == "search" and self.is_stopping:
                self._withdraw()

    def _withdraw(self) -> None:
        """Take back the candidates that have not begun, and their duplicates."""
        for job in self.executor.withdraw():
            candidate, _ = self._running.pop(job.id)
            self._duplicates.pop(candidate.digest, None)

    def submit(self, candidates: Iterable[Candidate], purpose: Purpose = "search") -> None:
        """Start scoring candidates.

        A recipe is scored on the search documents only once: further candidates with it get the
        same scores. A candidate fails if `MAX_ATTEMPTS` processes have ended while they scored it.
        """
        jobs = []
        for candidate in candidates:
            if purpose == "search" and self._is_duplicate(candidate):
                continue
            job = self._job(candidate, purpose)
            self._running[job.id] = candidate, purpose
            count = self._attempts.count(job.attempt)
            if count >= MAX_ATTEMPTS:
                self._record(
                    job.id,
                    Failure(
                        "lost",
                        f"{count} processes ended without an error while this candidate was "
                        "scored.",
                    ),
                )
            else:
                jobs.append(job)
        # A worker drops its model for a parent as itself, so these come last.
        parents = [job for job in jobs if job.as_itself]
        for part in ([job for job in jobs if not job.as_itself], parents):
            if part:
                self.executor.submit(part)

    def wait(self) -> None:
        """Wait for the next outcome and journal it; EvomergeError: the search cannot go on."""
        job, outcome = self.executor.next()
        if isinstance(outcome, Reached):
            raise RuntimeError(f"Job {job.id} has scored a candidate and returns a leg.")
        self._record(job.id, outcome)

    def walk(self, legs: Mapping[int, Leg]) -> Iterator[tuple[int, Reached]]:
        """Walk legs of descents; yield the place and the result of each as it is in the journal.

        A leg whose worker was lost, or took too long, has made no step.

        Raises:
            EvomergeError: the search cannot go on.
        """
        following, walking, jobs = len(self.history.candidates), dict[int, int](), []
        for place, leg in legs.items():
            self._jobs += 1
            walking[self._jobs] = place
            backoffs = self.history.oom_backoffs
            jobs.append(
                Job(self._jobs, following + place, leg.recipe, oom_backoffs=backoffs, leg=leg)
            )
        self.executor.submit(jobs)
        while walking:
            job, result = self.executor.next()
            place = walking.pop(job.id)
            if isinstance(result, Scores):
                raise RuntimeError(f"Job {job.id} is a leg and has scores.")
            if isinstance(result, Failure):
                self._check_failures(result)
                result = _not_walked(legs[place], result)
            event: Event = {"event": "leg", "candidate": following, "place": place}
            event |= result.to_json()
            self.logbook.write(event, result)
            yield place, result

    def _is_duplicate(self, candidate: Candidate) -> bool:
        """Whether an earlier candidate has the same recipe; if so, take or await its scores."""
        equal = self.history.earlier_equals
        for scored in equal(candidate):
            if isinstance(scored.told, Scores):
                self._tell(candidate, scored.told, scored)
                return True
        if any(item.status == "open" for item in equal(candidate)):
            self._duplicates.setdefault(candidate.digest, []).append(candidate)
        else:
            return False
        return True

    def _job(self, candidate: Candidate, purpose: Purpose) -> Job:
        """Return a new job with its own id."""
        self._jobs += 1
        itself = self._itself(candidate, purpose)
        recipe = itself or self._proposed.get(candidate.number) or self._recipe_of(candidate)
        split: Split = "search" if purpose == "complete" else purpose
        shown = purpose == "test" or (purpose == "search" and candidate.label is not None)
        job = Job(
            self._jobs,
            candidate.number,
            recipe,
            split,
            examples=EXAMPLES if shown else 0,
            oom_backoffs=self.history.oom_backoffs,
            as_itself=itself is not None,
        )
        if purpose != "search" or candidate.incumbent is None or self.recent is None:
            return job
        incumbent = self.history.candidates[candidate.incumbent].scores("search")
        return replace(job, incumbent=incumbent, earlier=self._earlier(candidate.known))

    def _earlier(self, known: int) -> tuple[Scores, ...]:
        """Return the scores of the latest of the first `known` candidates, for a race."""
        scored = (item for item in self.history.told[:known] if isinstance(item.told, Scores))
        latest = nlargest(self.recent or 0, scored, key=lambda item: item.number)
        return tuple(item.told for item in reversed(latest) if isinstance(item.told, Scores))

    def _itself(self, candidate: Candidate, purpose: Purpose) -> Recipe | None:
        """Return the recipe of the parent that is scored in place of the candidate, if any."""
        return self._as_itself(candidate) if purpose in ("validation", "test") else None

    def _record(self, job: int, outcome: Outcome) -> None:
        """Journal the outcome of a job, for the duplicates of its candidate too."""
        candidate, purpose = self._running.pop(job)
        if purpose == "search":
            self._tell(candidate, outcome)
            self.submit(self._duplicates.pop(candidate.digest, ()))
            return
        event: Event = {"event": "score", "candidate": candidate.number, "split": purpose}
        event |= {"as_itself": True} if self._itself(candidate, purpose) else {}
        if candidate.number == BASE:
            event |= {"event": "base", "label": candidate.label, "digest": candidate.digest}
        if purpose == "complete":
            event = {"event": "complete", "candidate": candidate.number}
            outcome, values = self._with_values(outcome)
            event |= {} if values is None else {"values": list(values)}
        self._write(event | outcome_fields(outcome), outcome)

    def _tell(
        self, candidate: Candidate, outcome: Outcome, scored: Candidate | None = None
    ) -> None:
        """Journal a candidate's first outcome, perhaps that of an earlier one with its recipe."""
        outcome, values = self._with_values(outcome)
        event: Event = {"event": "tell", "candidate": candidate.number}
        event |= outcome_fields(outcome) if scored is None else {"same_as": scored.number}
        event |= {} if values is None else {"values": list(values)}
        self._proposed.pop(candidate.number, None)
        self._write(event, outcome)
        self._update_incumbents(candidate)

    def _with_values(self, outcome: Outcome) -> tuple[Outcome, tuple[float, ...] | None]:
        """Return an outcome and its values. If a value is not finite, the outcome is a failure."""
        if isinstance(outcome, Failure):
            return outcome, None
        values = self.ranking.values(outcome)
        broken = violation(self.ranking.constraints, outcome)
        if all(map(math.isfinite, (*values, broken))):
            return outcome, values
        what = "An objective" if self.ranking.has_front else "The fitness"
        return Failure("evaluate", f"{what} is not a finite number."), None

    def _write(self, event: Event, outcome: Outcome) -> None:
        """Journal an event that carries an outcome, and a batch size that memory has forced."""
        if isinstance(outcome, Scores) and outcome.oom_backoffs > self.history.oom_backoffs:
            self.logbook.write({"event": "memory", "halvings": outcome.oom_backoffs})
        self.logbook.write(event, outcome)
        self._check_failures(outcome)

    def _update_incumbents(self, candidate: Candidate) -> None:
        """Compare a candidate with the incumbents, and publish the incumbents if they change."""
        incumbents = leading(self.ranking, [*self.incumbents, candidate])
        if incumbents != self.incumbents:
            self.incumbents = incumbents
            best = self.ranking.best(incumbents)
            if self.history.winner is None and best is not None:
                self.publish(incumbents, best)

    def _check_failures(self, outcome: Outcome) -> None:
        """Stop the search after `most_failures` equal failures."""
        if not isinstance(outcome, Failure) or outcome not in self._failures[-1:]:
            self._failures.clear()
        if isinstance(outcome, Failure):
            self._failures.append(outcome)
        if len(self._failures) >= self.most_failures:
            raise SearchError(
                f"The last {len(self._failures)} candidates failed in the same way "
                f"({outcome_text(self._failures[-1])}), so the search has stopped; remove the "
                "cause, then go on with `evomerge resume`."
            )


def outcome_text(failure: Failure) -> str:
    """Return a failure as `stage: reason`."""
    return f"{failure.stage}: {failure.reason.rstrip('.')}"


def _not_walked(leg: Leg, failure: Failure) -> Reached:
    """Return the result of a leg that could not be walked: no steps, and a smaller rate."""
    descent = leg.descent
    for _ in leg.batches:
        descent = descent.failed_step()
    log.warning("A leg of a descent was not walked (%s).", outcome_text(failure))
    return Reached(descent, (None,) * len(leg.batches), None, leg.forms)
