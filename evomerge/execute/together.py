"""Jobs of a generation run together in this process, so that they can share work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from evomerge.execute.protocol import Job
from evomerge.scores import Outcome


class TogetherExecutor:
    """Takes a generation of jobs; then delivers their outcomes, one by one as they come.

    Args:
        run: yields every job of several with its outcome, in an order of its own.
        generation: most jobs that run together.
    """

    def __init__(
        self, run: Callable[[Sequence[Job]], Iterator[tuple[Job, Outcome]]], generation: int
    ) -> None:
        self._run, self._generation = run, generation
        self._taken: list[Job] = []
        self._found: Iterator[tuple[Job, Outcome]] = iter(())
        self._owed = 0

    @property
    def capacity(self) -> int:
        """As many jobs as a generation has, none while outcomes are owed."""
        return 0 if self._owed else self._generation

    def submit(self, job: Job) -> None:
        """Take a job into the next generation."""
        self._taken.append(job)

    def next(self) -> tuple[Job, Outcome]:
        """Return the next outcome of the generation, starting it if it is new."""
        if not self._owed:
            self._found, self._owed = self._run(tuple(self._taken)), len(self._taken)
            self._taken = []
        self._owed -= 1
        return next(self._found)

    def close(self) -> None:
        """Forget what is not finished."""
        self._taken, self._owed, self._found = [], 0, iter(())
