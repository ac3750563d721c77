"""The executor of a study: it gives jobs to whoever asks, and is told their outcomes."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Sequence

from evomerge.execute.protocol import Job, Result


class StudyExecutor:
    """Runs nothing itself.

    Attributes:
        width: there may be any number of open jobs.
        waiting: the jobs that nobody was given yet, in the order of `submit`.
        open: candidate -> its job, until its outcome is told.
    """

    width = sys.maxsize

    def __init__(self) -> None:
        self.waiting: deque[Job] = deque()
        self.open: dict[int, Job] = {}
        self._told: deque[tuple[Job, Result]] = deque()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Add jobs to those that wait."""
        self.waiting.extend(jobs)
        self.open |= {job.candidate: job for job in jobs}

    def tell(self, candidate: int, outcome: Result) -> None:
        """Set the outcome of the open job of a candidate; it need not have been given to anyone."""
        job = self.open.pop(candidate)
        if job in self.waiting:
            self.waiting.remove(job)
        self._told.append((job, outcome))

    def next(self) -> tuple[Job, Result]:
        """Return the job whose outcome was told first; IndexError: all told ones were returned."""
        return self._told.popleft()

    def withdraw(self) -> Sequence[Job]:
        """Take back the jobs that nobody was given."""
        jobs = tuple(self.waiting)
        self.waiting.clear()
        for job in jobs:
            del self.open[job.candidate]
        return jobs

    def close(self) -> None:
        """Drop all jobs; they stay open in the journal."""
        self.waiting.clear()
        self.open.clear()
