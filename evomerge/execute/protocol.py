"""Jobs, and the interface of executors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from evomerge.optimize.descent import Leg, Reached
from evomerge.recipe import Recipe
from evomerge.scores import Outcome, Scores, Split


@dataclass(frozen=True)
class Job:
    """A recipe to build and score, or a leg of a descent to walk.

    Attributes:
        id: number of the job, different for all jobs of a session.
        candidate: number of the candidate that the job belongs to, for messages.
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

    id: int
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
    """Runs jobs, in this process or elsewhere.

    Laws: `next` returns every submitted job exactly once, in any order, unless `withdraw` has taken
    it back. If the candidate is at fault, the outcome is a `Failure`. If something else is (a disk,
    a device, a missing parent), `next` raises an `EvomergeError`.
    """

    @property
    def width(self) -> int:
        """Number of jobs that can run at a time."""
        ...

    def submit(self, jobs: Sequence[Job]) -> None:
        """Add jobs."""
        ...

    def next(self) -> tuple[Job, Result]:
        """Wait until one of the submitted jobs is done; return it with its outcome.

        Raises:
            EvomergeError: the search cannot go on.
        """
        ...

    def withdraw(self) -> Sequence[Job]:
        """Take back the submitted jobs that have not begun, and return them."""
        ...

    def close(self) -> None:
        """Stop and free all resources; jobs that are not done are dropped."""
        ...
