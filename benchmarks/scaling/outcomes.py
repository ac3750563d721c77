"""Made-up outcomes of jobs."""

from __future__ import annotations

import hashlib
import random
import time
from collections import deque
from collections.abc import Sequence

import numpy as np

from evomerge.execute.protocol import Job
from evomerge.scores import Outcome, Scores
from scaling.searches import METRIC, TASK

DOCUMENTS = 400


def random_of(job: Job, what: str) -> random.Random:
    """Return a random generator that depends only on the job's recipe and split, and on `what`."""
    key = f"{job.recipe.digest}/{job.split}/{what}".encode()
    return random.Random(hashlib.sha256(key).digest())


def scores_of(job: Job) -> Scores:
    """Return scores on `DOCUMENTS` documents, of which about half are right."""
    generator = np.random.default_rng(random_of(job, "scores").getrandbits(64))
    order = generator.permutation(DOCUMENTS)
    count = generator.binomial(DOCUMENTS, 0.5)
    values = tuple((order < count).astype(float).tolist())
    seconds = {"prepare": 0.0, "merge": 1.0, "evaluate": 29.0}
    key = f"{TASK}/{METRIC}"
    return Scores(
        {TASK: tuple(range(DOCUMENTS))},
        {key: values},
        {key: sum(values) / DOCUMENTS},
        seconds,
        cpu_seconds=seconds,
    )


class InstantExecutor:
    """Answers every job at once.

    Args:
        width: number of jobs in flight at a time.

    Attributes:
        spent: CPU seconds spent to make outcomes up.
    """

    def __init__(self, width: int) -> None:
        self.width, self.spent = width, 0.0
        self._queue: deque[Job] = deque()

    def submit(self, jobs: Sequence[Job]) -> None:
        self._queue.extend(jobs)

    def next(self) -> tuple[Job, Outcome]:
        job, began = self._queue.popleft(), time.process_time()
        outcome = scores_of(job)
        self.spent += time.process_time() - began
        return job, outcome

    def close(self) -> None:
        self._queue.clear()
