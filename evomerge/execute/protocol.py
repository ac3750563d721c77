"""A job, and what every executor can do with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from evomerge.recipe import Recipe
from evomerge.scores import Outcome, Scores, Split


@dataclass(frozen=True)
class Job:
    """A recipe to build and score.

    Attributes:
        id: tells the jobs of one session apart, whatever they are for.
        candidate: number of the candidate it belongs to, for people and logs.
        recipe: what to build.
        split: which documents to score it on.
        incumbent: scores of the candidate it is compared with, or None to score every document.
        earlier: scores of earlier candidates, which a fidelity policy builds on.
        halvings: how often batches are halved, since memory ran out before.
    """

    id: int
    candidate: int
    recipe: Recipe
    split: Split = "search"
    incumbent: Scores | None = None
    earlier: tuple[Scores, ...] = ()
    halvings: int = 0


RunJobs: TypeAlias = Callable[[Sequence[Job]], Iterator[tuple[Job, Outcome]]]
"""Runs jobs that belong together; yields each with its outcome, in an order of its own."""


class Executor(Protocol):
    """Runs jobs, here or elsewhere.

    Laws: every job that was submitted comes out of `next` exactly once, in any order; what is
    wrong with a candidate comes out as a `Failure`; what is wrong with the world (a disk, a
    device, a missing parent) is raised by `next` as an `EvomergeError`.
    """

    @property
    def width(self) -> int:
        """How many jobs it can run at a time; a search without generations keeps so many open."""
        ...

    def submit(self, jobs: Sequence[Job]) -> None:
        """Take jobs that were made together, a generation say; it may share work among them."""
        ...

    def next(self) -> tuple[Job, Outcome]:
        """Wait for one of the jobs that were submitted.

        Raises:
            EvomergeError: the search cannot go on.
        """
        ...

    def close(self) -> None:
        """Stop and free everything; jobs that have not come out are forgotten."""
        ...
