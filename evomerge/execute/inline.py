"""The executor that runs jobs one after the other in this process."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

from evomerge.execute.protocol import Job, Result, RunJobs


class InlineExecutor:
    """Runs a job when `next` is called; `close` is called when the executor is closed."""

    width = 1

    def __init__(self, run: RunJobs, close: Callable[[], None] = lambda: None) -> None:
        self._run, self._close = run, close
        self._running: deque[Iterator[tuple[Job, Result]]] = deque()
        self._waiting: dict[int, Job] = {}

    def submit(self, jobs: Sequence[Job]) -> None:
        """Add jobs to the queue."""
        self._running.append(self._run(tuple(jobs)))
        self._waiting |= {job.id: job for job in jobs}

    def next(self) -> tuple[Job, Result]:
        """Run until one more job is done; return it with its outcome.

        Raises:
            EvomergeError: the search cannot go on.
        """
        while True:
            found = next(self._running[0], None)
            if found is not None:
                del self._waiting[found[0].id]
                return found
            self._running.popleft()

    def withdraw(self) -> Sequence[Job]:
        """Empty the queue, and return what was in it."""
        jobs = tuple(self._waiting.values())
        self._running.clear()
        self._waiting.clear()
        return jobs

    def close(self) -> None:
        """Empty the queue."""
        self.withdraw()
        self._close()


def one_by_one(run: Callable[[Job], Result]) -> RunJobs:
    """Turn a function that runs one job into one that runs several, in their order."""
    return lambda jobs: ((job, run(job)) for job in jobs)
