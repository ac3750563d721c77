"""One session of a search: makes jobs of candidates, and journals the outcomes."""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

from evomerge.errors import SearchError
from evomerge.execute.protocol import Executor, Job
from evomerge.optimize.descent import Chunk, Reached
from evomerge.problem.documents import FreshDocuments
from evomerge.recipe import Recipe
from evomerge.run.history import BASE, Candidate, outcome_fields
from evomerge.run.journal import Event
from evomerge.run.logbook import Logbook
from evomerge.run.ranking import Ranking, best_of, front_of, leading
from evomerge.scores import Failure, Outcome, Scores, Split, violation

log = logging.getLogger(__name__)

EXAMPLES = 3
"""Documents of each task whose prompts and answers are kept, of baselines and of the winner."""

SAME_FAILURES = 10
"""The usual `Session.most_failures`."""


@dataclass(eq=False, kw_only=True)
class Session:
    """Has candidates scored and journals their outcomes.

    Attributes:
        make_executor: makes the executor, when there is something to score; None: whoever scores
            candidates calls `record`.
        recipe_of: decodes the recipe of a candidate of an earlier session.
        fresh: draws the search documents of each generation; None: all candidates have all.
        publish: is called with the incumbents and the best of them whenever they change, and with
            the final front and the winner.
        as_itself: returns the recipe of the parent itself, which is scored on validation and test
            documents, if a candidate is the baseline of a parent that is another model.
        bases: the base, numbered `BASE`, if it is to be tested beside the winner.
        most_failures: number of equal failures in a row at which the search stops.
    """

    logbook: Logbook
    make_executor: Callable[[], Executor] | None
    recipe_of: Callable[[Candidate], Recipe]
    ranking: Ranking
    fresh: FreshDocuments | None
    publish: Callable[[Sequence[Candidate], Candidate], None]
    as_itself: Callable[[Candidate], Recipe | None] = lambda candidate: None
    bases: Sequence[Candidate] = ()
    most_failures: float = SAME_FAILURES

    def __post_init__(self) -> None:
        self.history = self.logbook.history
        self.incumbents = leading(self.ranking, self.history.candidates)
        self._failures: list[Failure] = []

    @cached_property
    def executor(self) -> Executor:
        """The executor, made at the first use."""
        assert self.make_executor is not None
        return self.make_executor()

    def close(self) -> None:
        """Close the executor, if it was made."""
        if "executor" in self.__dict__:
            self.executor.close()

    def publish_best(self) -> None:
        """Publish the winner; before there is one, the incumbents."""
        best, front = best_of(self.history, self.ranking), front_of(self.history, self.ranking)
        if best is not None:
            self.publish(front, best)

    def score(self, candidates: Iterable[Candidate], split: Split = "search") -> None:
        """Score candidates, and journal their outcomes.

        They are taken one by one, when the executor has room. A recipe is scored on the same search
        documents once: further candidates with it get the same scores. If the search is asked to
        stop, candidates that have not begun stay open.

        Raises:
            EvomergeError: the search cannot go on.
        """
        held: list[Candidate] = []
        if split == "search":
            for candidate in self.history.open:  # a kill may have come between equal ones
                self.take_scores(candidate)
            candidates = self._unscored(candidates, held)
        else:  # a worker drops its model for a parent as itself, so these come last
            candidates = sorted(candidates, key=lambda it: self._itself(it, split) is not None)
            self.logbook.note_finals(split, len(candidates))
        for candidate, outcome in self._run(candidates, split):
            self.record(candidate, outcome, split)
        if held:  # an equal one has failed
            self.score(held)

    def _run(
        self, candidates: Iterable[Candidate], split: Split
    ) -> Iterator[tuple[Candidate, Outcome]]:
        """Yield candidates with their outcomes; the executor is made when there is a first one."""
        running: dict[int, Candidate] = {}

        def make_jobs() -> Iterator[Job]:
            for candidate in candidates:
                running[candidate.number] = candidate
                yield self._job(candidate, split)

        jobs = make_jobs()
        for first in jobs:
            for job, outcome in self.executor.run(chain((first,), jobs)):
                assert not isinstance(outcome, Reached)
                yield running.pop(job.candidate), outcome

    def _unscored(
        self, candidates: Iterable[Candidate], held: list[Candidate]
    ) -> Iterator[Candidate]:
        """Yield what is to be scored; `held` has the others, while an equal one is scored."""
        for candidate in candidates:
            queue, held[:] = [*held, candidate], []
            for item in queue:
                if self.logbook.is_stopping:
                    return
                if item.told is not None or self.take_scores(item):
                    continue
                if self.is_held(item):
                    held.append(item)
                else:
                    yield item

    def is_held(self, candidate: Candidate) -> bool:
        """Whether an earlier candidate with the same recipe is open."""
        return any(item.told is None for item in self.history.earlier_equals(candidate))

    def take_scores(self, candidate: Candidate) -> bool:
        """Give a candidate the scores of an earlier one with its recipe; return whether it can."""
        for scored in self.history.earlier_equals(candidate):
            if isinstance(scored.told, Scores):
                self._tell(candidate, scored.told, scored)
                return True
        return False

    def record(self, candidate: Candidate, outcome: Outcome, split: Split = "search") -> None:
        """Journal an outcome, for the open candidates with the same recipe too."""
        if split == "search":
            self._tell(candidate, outcome)
            for item in self.history.open:
                if item.digest == candidate.digest:
                    self.take_scores(item)
            return
        event: Event = {"event": "score", "candidate": candidate.number, "split": split}
        if self._itself(candidate, split) is not None:
            event["as_itself"] = True
        if candidate.number == BASE:
            event |= {"event": "base", "label": candidate.label, "digest": candidate.digest}
        self._write(event | outcome_fields(outcome), outcome)

    def descend(self, chunks: Mapping[int, Chunk]) -> Iterator[tuple[int, Reached]]:
        """Make chunks of descents; yield the place and the result of each when it is journaled.

        A chunk whose worker was lost, or took too long, has made no step.
        """
        following, backoffs = len(self.history.candidates), self.history.oom_backoffs
        jobs = [
            Job(following + place, chunk.recipe, oom_backoffs=backoffs, chunk=chunk)
            for place, chunk in chunks.items()
        ]
        for job, result in self.executor.run(jobs) if jobs else ():
            place = job.candidate - following
            assert not isinstance(result, Scores)
            if isinstance(result, Failure):
                self._check_failures(result)
                result = _without_steps(chunks[place], result)
            event: Event = {"event": "leg", "candidate": following, "place": place}
            event |= result.to_json()
            self.logbook.write(event, result)
            yield place, result

    def recipe(self, candidate: Candidate) -> Recipe:
        """Return the recipe of a candidate."""
        return candidate.recipe or self.recipe_of(candidate)

    def _job(self, candidate: Candidate, split: Split) -> Job:
        itself = self._itself(candidate, split)
        is_baseline = split == "search" and candidate.label is not None
        documents = None
        if self.fresh is not None and split == "search" and candidate.fresh is not None:
            documents = self.fresh.sample(candidate.generation or 0, candidate.fresh)
        return Job(
            candidate.number,
            itself or self.recipe(candidate),
            split,
            documents=documents,
            examples=EXAMPLES if is_baseline or split == "test" else 0,
            oom_backoffs=self.history.oom_backoffs,
            as_itself=itself is not None,
        )

    def _itself(self, candidate: Candidate, split: Split) -> Recipe | None:
        """Return the recipe of the parent that is scored in place of the candidate, if any."""
        return self.as_itself(candidate) if split != "search" else None

    def _tell(
        self, candidate: Candidate, outcome: Outcome, scored: Candidate | None = None
    ) -> None:
        """Journal a candidate's outcome, perhaps that of an earlier one with its recipe."""
        if self.fresh is not None and candidate.fresh is not None and isinstance(outcome, Scores):
            outcome = self.fresh.estimate(outcome)
        outcome, values = self._with_values(outcome)
        event: Event = {"event": "tell", "candidate": candidate.number}
        event |= outcome_fields(outcome) if scored is None else {"same_as": scored.number}
        candidate.recipe = None
        self._write(event | values, outcome)
        incumbents = leading(self.ranking, [*self.incumbents, candidate])
        if incumbents != self.incumbents:
            self.incumbents = incumbents
            best = self.ranking.best(incumbents)
            if self.history.winner is None and best is not None:
                self.publish(incumbents, best)

    def _with_values(self, outcome: Outcome) -> tuple[Outcome, Event]:
        """Return an outcome, and its values as a field; a failure if one is not finite."""
        if isinstance(outcome, Failure):
            return outcome, {}
        values = self.ranking.values(outcome)
        broken = violation(self.ranking.constraints, outcome)
        if all(map(math.isfinite, (*values, broken))):
            return outcome, {"values": list(values)}
        what = "An objective" if self.ranking.has_front else "The fitness"
        if not math.isfinite(broken):
            what = "What a constraint bounds"
        return Failure("evaluate", f"{what} is not a finite number."), {}

    def _write(self, event: Event, outcome: Outcome) -> None:
        """Journal an event that carries an outcome, and a batch size that memory has forced."""
        if isinstance(outcome, Scores) and outcome.oom_backoffs > self.history.oom_backoffs:
            self.logbook.write({"event": "memory", "halvings": outcome.oom_backoffs})
        self.logbook.write(event, outcome)
        self._check_failures(outcome)

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


def _without_steps(chunk: Chunk, failure: Failure) -> Reached:
    """Return the result of a chunk that could not be made: no steps, and a smaller rate."""
    descent = chunk.descent
    for _ in chunk.batches:
        descent = descent.failed_step()
    log.warning("A chunk of a descent was not made (%s).", outcome_text(failure))
    return Reached(descent, (None,) * len(chunk.batches), None, chunk.forms)
