"""Jobs, the interface of executors, and the executor in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from evomerge.optimize.descent import Leg, Reached
from evomerge.recipe import Recipe
from evomerge.run.activity import Activity
from evomerge.run.attempts import MAX_ATTEMPTS, Attempts
from evomerge.scores import Failure, Outcome, Scores, Split


@dataclass(frozen=True)
class Job:
    """A recipe to build and score, or a leg of a descent to walk.

    Attributes:
        candidate: number of the candidate that the job belongs to.
        split: the documents to score the recipe's model on.
        incumbent: scores of the incumbent, for a race, which may score fewer documents.
            None: score all documents.
        earlier: scores of earlier candidates, for a race.
        examples: number of documents of each task whose prompt and answer come with the scores.
        oom_backoffs: how often the batch size is halved, because memory ran out in earlier jobs.
        as_itself: whether the host of the recipe, which is the host unchanged, is scored with its
            own config, tokenizer and chat template, as `evomerge evaluate` does it.
        leg: the leg to walk instead; `recipe` is where it begins.
    """

    candidate: int
    recipe: Recipe
    split: Split = "search"
    incumbent: Scores | None = None
    earlier: tuple[Scores, ...] = ()
    examples: int = 0
    oom_backoffs: int = 0
    as_itself: bool = False
    leg: Leg | None = None

    @property
    def attempt(self) -> str:
        """What is tried, for the count of processes that ended meanwhile."""
        return f"{self.candidate} {'leg' if self.leg else self.split}"


Result: TypeAlias = Outcome | Reached
"""What comes out of a job: a `Failure`, else `Scores`, or where a leg ended."""


RunJob: TypeAlias = Callable[[Job], Result]
"""Runs a job."""


class Executor(Protocol):
    """Runs jobs, in this process or elsewhere."""

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Result]]:
        """Yield each job with its outcome, in any order.

        A job is taken from the iterable when there is room for it, and not before the outcomes so
        far were yielded: what comes next may depend on them. If the candidate is at fault, the
        outcome is a `Failure`.

        Raises:
            EvomergeError: something else is at fault (a disk, a device, a missing parent).
        """
        ...

    def close(self) -> None:
        """Stop and free all resources; jobs that are not done are dropped."""
        ...


class InlineExecutor:
    """Runs one job after the other in this process; `end` is called when it is closed."""

    def __init__(
        self,
        run: RunJob,
        attempts: Attempts,
        activity: Activity,
        end: Callable[[], None] = lambda: None,
    ) -> None:
        self._run, self._attempts, self._activity, self.close = run, attempts, activity, end

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Result]]:
        """Run jobs; see `Executor`."""
        for job in jobs:
            if (lost := given_up(self._attempts, job)) is not None:
                yield job, lost
                continue
            self._activity.note(0, "scoring", "this process", [job.candidate], job.split)
            self._activity.write()
            with self._attempts.trying(job.attempt):
                outcome = self._run(job)
            yield job, outcome


def given_up(attempts: Attempts, job: Job, how: str = "without an error") -> Failure | None:
    """Return the outcome of a job in the middle of which `MAX_ATTEMPTS` processes have ended."""
    if (count := attempts.count(job.attempt)) < MAX_ATTEMPTS:
        return None
    return Failure("lost", f"{count} processes ended while this candidate was scored ({how}).")
