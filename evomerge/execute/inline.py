"""Jobs run one after the other in this process."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

from evomerge.execute.protocol import Job, RunJobs
from evomerge.scores import Outcome


class InlineExecutor:
    """Runs jobs when their outcomes are waited for.

    Args:
        run: runs the jobs of one submission.
    """

    width = 1

    def __init__(self, run: RunJobs) -> None:
        self._run = run
        self._running: deque[Iterator[tuple[Job, Outcome]]] = deque()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue jobs."""
        self._running.append(self._run(tuple(jobs)))

    def next(self) -> tuple[Job, Outcome]:
        """Run until one more job is done.

        Raises:
            EvomergeError: the search cannot go on.
        """
        while True:
            found = next(self._running[0], None)
            if found is not None:
                return found
            self._running.popleft()

    def close(self) -> None:
        """Forget what is queued."""
        self._running.clear()


def one_by_one(run: Callable[[Job], Outcome]) -> RunJobs:
    """Return what runs jobs in the order in which they were submitted."""
    return lambda jobs: ((job, run(job)) for job in jobs)
