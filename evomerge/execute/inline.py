"""The executor that runs jobs one after the other in this process."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from evomerge.execute.protocol import Job, Result, RunJob


class InlineExecutor:
    """Runs a job when `next` is called; `close` is called when the executor is closed."""

    width = 1

    def __init__(self, run: RunJob, close: Callable[[], None] = lambda: None) -> None:
        self._run, self._close = run, close
        self._waiting: deque[Job] = deque()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Add jobs to the queue."""
        self._waiting.extend(jobs)

    def next(self) -> tuple[Job, Result]:
        """Run the next job; return it with its outcome.

        Raises:
            EvomergeError: the search cannot go on.
        """
        job = self._waiting.popleft()
        return job, self._run(job)

    def withdraw(self) -> Sequence[Job]:
        """Empty the queue, and return what was in it."""
        jobs = tuple(self._waiting)
        self._waiting.clear()
        return jobs

    def close(self) -> None:
        """Empty the queue."""
        self.withdraw()
        self._close()
