"""Jobs run one after the other in this process."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from evomerge.execute.protocol import Job
from evomerge.scores import Outcome


class InlineExecutor:
    """Runs each job when its outcome is waited for."""

    capacity = 1

    def __init__(self, run: Callable[[Job], Outcome]) -> None:
        self._run = run
        self._open: deque[Job] = deque()

    def submit(self, job: Job) -> None:
        """Queue a job."""
        self._open.append(job)

    def next(self) -> tuple[Job, Outcome]:
        """Run the oldest queued job."""
        job = self._open.popleft()
        return job, self._run(job)

    def close(self) -> None:
        """Forget what is queued."""
        self._open.clear()
