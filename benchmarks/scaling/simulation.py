"""A simulated executor: the driver is real, the workers and their time are not.

The clock of a simulation is virtual. It goes on by what the real driver takes between two calls of
the executor (`DriverClock`), by what it takes to pickle jobs and to unpickle outcomes, which is
measured for each one, and to the end of a job whenever the driver waits. So a driver that is too
slow leaves the simulated workers without jobs, as it would real ones.
"""

from __future__ import annotations

import heapq
import math
import pickle
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from evomerge.execute.protocol import Job
from evomerge.run.history import History
from evomerge.run.journal import Event
from evomerge.scores import Failure, Outcome
from scaling.outcomes import random_of, scores_of
from scaling.searches import DriverClock, Setting, run_search

LATENCY = 0.001
"""Assumed seconds that a message is on its way from the driver to a worker, or back."""

Score = Callable[[Job], Outcome]


@dataclass(frozen=True)
class Uneven:
    """How long a worker takes for a job: lognormal, with stragglers and failures.

    Attributes:
        mean: mean of the lognormal distribution in seconds, above 0.
        sigma: standard deviation of the logarithm, 0 or more; 0: all are equal.
        stragglers: share of the jobs that take `slow` times as long, in [0, 1].
        slow: see `stragglers`.
        failures: share of the search jobs that fail, after a part of their time, in [0, 1].
    """

    mean: float
    sigma: float = 0.5
    stragglers: float = 0.01
    slow: float = 10.0
    failures: float = 0.01

    def run(self, job: Job, score: Score) -> tuple[float, Outcome]:
        """Return how long a job takes in seconds, and its outcome. Both depend on the job only."""
        generator = random_of(job, "time")
        mean_of_log = math.log(self.mean) - self.sigma**2 / 2
        seconds = math.exp(generator.gauss(mean_of_log, self.sigma))
        if generator.random() < self.stragglers:
            seconds *= self.slow
        if job.split == "search" and generator.random() < self.failures:
            reason = f"The recipe {job.recipe.digest[:12]} is made to fail."
            return seconds * generator.random(), Failure("evaluate", reason)
        return seconds, score(job)


class SimulatedExecutor:
    """Runs jobs on simulated workers.

    Like the executor of worker processes, it gives jobs to free workers only when the driver calls
    it.

    Args:
        width: number of workers.
        uneven: how long a job takes.
        clock: measures the driver.
        score: the outcome of a job that does not fail.

    Attributes:
        now: virtual seconds since the executor was made.
        busy: seconds that all workers together take for the jobs that were handed out so far.
        sent: seconds in which the driver pickled jobs and unpickled outcomes.
        driven: seconds of the driver, without those in `sent`.
    """

    def __init__(
        self, width: int, uneven: Uneven, clock: DriverClock, score: Score = scores_of
    ) -> None:
        self.width, self._uneven, self._clock, self._score = width, uneven, clock, score
        self.now = self.busy = self.sent = self.driven = 0.0
        self._free = width
        self._queue: deque[Job] = deque()
        self._running: list[tuple[float, int, Job, bytes]] = []
        """Jobs that run, as a heap: end in virtual seconds, id, job, pickled outcome."""
        self._ended: deque[tuple[Job, bytes]] = deque()
        """Jobs that have ended and wait for the driver."""
        self._left = clock.seconds

    def submit(self, jobs: Sequence[Job]) -> None:
        """Add jobs to the queue."""
        self._enter()
        self._queue.extend(jobs)
        self._hand_out()
        self._left = self._clock.seconds

    def next(self) -> tuple[Job, Outcome]:
        """Return the job that ended first, and its outcome."""
        self._enter()
        if not self._ended:
            self.now = max(self.now, self._running[0][0])
            self._take_ended()
            self._hand_out()
        job, pickled = self._ended.popleft()
        began = time.process_time()
        outcome: Outcome = pickle.loads(pickled)
        self._send(time.process_time() - began)
        self._left = self._clock.seconds
        return job, outcome

    def withdraw(self) -> Sequence[Job]:
        """Take back the jobs that no worker has, and return them."""
        jobs = tuple(self._queue)
        self._queue.clear()
        return jobs

    def close(self) -> None:
        """Drop all jobs."""
        self._queue.clear()
        self._running.clear()
        self._ended.clear()

    @property
    def done(self) -> float:
        """Seconds that all workers together have been busy until now."""
        return self.busy - sum(max(0.0, end - self.now) for end, *_ in self._running)

    def _enter(self) -> None:
        """Let the virtual clock go on by what the driver took since it left the executor."""
        passed = self._clock.seconds - self._left
        self.now += passed
        self.driven += passed
        self._take_ended()
        self._hand_out()

    def _send(self, seconds: float) -> None:
        self.now += seconds
        self.sent += seconds

    def _take_ended(self) -> None:
        """Free the workers whose jobs have ended by now."""
        while self._running and self._running[0][0] <= self.now:
            _, _, job, pickled = heapq.heappop(self._running)
            self._ended.append((job, pickled))
            self._free += 1

    def _hand_out(self) -> None:
        """Give a job to each free worker, as long as there are jobs."""
        while self._free and self._queue:
            job = self._queue.popleft()
            began = time.process_time()
            pickled = pickle.dumps(job)
            self._send(time.process_time() - began)
            began = time.process_time()
            pickle.loads(pickled)
            received = time.process_time() - began
            seconds, outcome = self._uneven.run(job, self._score)
            self._free -= 1
            self.busy += seconds
            end = self.now + received + seconds + 2 * LATENCY
            heapq.heappush(self._running, (end, job.id, job, pickle.dumps(outcome)))


@dataclass(frozen=True)
class Simulated:
    """What came out of a simulation.

    Attributes:
        workers: number of workers.
        candidates: number of candidates that were scored.
        efficiency: share of the workers' time in which they were busy, until the last candidate
            begins (`arrival`) or has its outcome (`generation`).
        to_the_end: the same until the last candidate has its outcome. At the end of a search by
            `arrival` the workers have nothing more to do; the shorter the search, the more it
            counts.
        makespan: virtual seconds until the last candidate has its outcome.
        driver: seconds of the driver for each candidate, jobs and outcomes in transfer included.
        optimizer: part of `driver` that is the optimizer's own.
        sent: part of `driver` for pickling jobs and unpickling outcomes.
    """

    workers: int
    candidates: int
    efficiency: float
    to_the_end: float
    makespan: float
    driver: float
    optimizer: float
    sent: float


def simulate(setting: Setting, workers: int, uneven: Uneven) -> Simulated:
    """Run a search on simulated workers.

    Finals are left out of all figures: they are a few jobs for any number of workers.
    """
    clock = DriverClock()
    executor: SimulatedExecutor | None = None
    begun: list[tuple[float, float]] = []
    ended: list[tuple[float, float]] = []
    costs: list[float] = []

    def make() -> SimulatedExecutor:
        nonlocal executor
        executor = SimulatedExecutor(workers, uneven, clock)
        return executor

    def follow(history: History, event: Event) -> None:
        if executor is None:
            return
        if event["event"] == "ask" and event["candidate"] == setting.candidates - 1:
            begun.append((executor.now, executor.done))
        if event["event"] == "tell" and len(history.told) == setting.candidates:
            ended.append((executor.now, executor.done))
            costs.extend((executor.driven + executor.sent, clock.optimizer, executor.sent))

    with tempfile.TemporaryDirectory(dir=".", prefix=".simulated-") as folder:
        run_search(Path(folder, "run"), setting, make, clock, [follow])
    (makespan, busy), count = ended[0], setting.candidates
    until, busy_until = begun[0] if setting.order == "arrival" else ended[0]
    return Simulated(
        workers,
        count,
        busy_until / (workers * until),
        busy / (workers * makespan),
        makespan,
        *(seconds / count for seconds in costs),
    )
