"""A job, and what every executor can do with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from evomerge.recipe import Recipe
from evomerge.scores import Outcome, Scores, Split


@dataclass(frozen=True)
class Job:
    """A candidate to build and score.

    Attributes:
        number: the candidate's number.
        recipe: what to build.
        split: which documents to score it on.
        subset: which rotating subset of the search documents, or None for all of them.
        against: scores of the leader on them, or None to score every document.
        earlier: scores of candidates before, which tell how many documents this one is worth.
    """

    number: int
    recipe: Recipe
    split: Split = "search"
    subset: int | None = None
    against: Scores | None = None
    earlier: tuple[Scores, ...] = ()


class Executor(Protocol):
    """Runs jobs; keeps up to `capacity` of them open."""

    @property
    def capacity(self) -> int:
        """How many jobs may be open at the moment."""
        ...

    def submit(self, job: Job) -> None:
        """Start a job. At most `capacity` may be open."""
        ...

    def next(self) -> tuple[Job, Outcome]:
        """Wait for one open job; a job never raises, it ends as a `Failure`."""
        ...

    def close(self) -> None:
        """Stop and free everything."""
        ...
