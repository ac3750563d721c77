"""Jobs of a generation run together in this process, so that they can share work."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence

from evomerge.execute.protocol import Job
from evomerge.scores import Outcome


class TogetherExecutor:
    """Takes as many jobs as it is given; then delivers their outcomes, one by one as they come.

    How many run together is for the search to say (`Plan.together`).

    Args:
        run: yields every job of several with its outcome, in an order of its own.
    """

    def __init__(self, run: Callable[[Sequence[Job]], Iterator[tuple[Job, Outcome]]]) -> None:
        self._run = run
        self._taken: list[Job] = []
        self._found: Iterator[tuple[Job, Outcome]] = iter(())
        self._owed = 0

    @property
    def capacity(self) -> int:
        """No bound, but none while outcomes are owed."""
        return 0 if self._owed else sys.maxsize

    def submit(self, job: Job) -> None:
        """Take a job."""
        self._taken.append(job)

    def next(self) -> tuple[Job, Outcome]:
        """Return the next outcome; the first one starts all jobs that were taken."""
        if not self._owed:
            self._found, self._owed = self._run(tuple(self._taken)), len(self._taken)
            self._taken = []
        self._owed -= 1
        return next(self._found)

    def close(self) -> None:
        """Forget what is not finished."""
        self._taken, self._owed, self._found = [], 0, iter(())
