"""The executor that hands jobs to workers in other processes, and replaces workers that are lost.

How a worker is started, reached and ended is its own matter (`processes.py`, `ray.py`); this file
decides what each one runs, and what becomes of jobs whose worker is lost or that take too long.
"""

import logging
import math
import queue
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from logging.handlers import QueueHandler
from multiprocessing.connection import wait
from typing import Any, TypeAlias

from evomerge.errors import DeviceError, SearchError, one_line
from evomerge.execute.allocator import keep_freed_memory
from evomerge.execute.protocol import MAX_ATTEMPTS, Attempts, Job, MakesWorker, Result
from evomerge.scores import Failure

log = logging.getLogger(__name__)

Records: TypeAlias = list[logging.LogRecord]


class LostWorkerError(Exception):
    """A worker ended before its job did; the message says how (`by the signal SIGKILL`)."""


class LostMachineError(LostWorkerError):
    """A worker ended with its machine, or cannot be reached."""


class RemoteWorker(ABC):
    """A worker in another process, perhaps on another machine, that runs one job at a time.

    Attributes:
        number: its place in the pool.
        place: where it runs, for people: a device, or a machine. Empty: nothing to say.
        is_ready: whether it has started.
        job: what it runs until the deadline.
        failed_starts: how often in a row it was lost while it started.
    """

    number = 0
    place = ""
    is_ready = False
    job: Job | None = None
    deadline = math.inf
    failed_starts = 0

    def rest(self, *, is_ready: bool) -> None:
        """Have no job; and get none until it has started, if it is not ready."""
        self.job, self.deadline, self.is_ready = None, math.inf, is_ready

    @abstractmethod
    def start(self) -> None:
        """Start it in a new process, and end an old one. Its first answer is `Host.ready`."""

    @abstractmethod
    def send(self, job: Job) -> None:
        """Begin a job, whose result is an answer."""

    @abstractmethod
    def signs(self) -> Sequence[Any]:
        """Return what `multiprocessing.connection.wait` finds ready if there is an answer."""

    @abstractmethod
    def answer(self) -> tuple[Any, Records]:
        """Return the next answer, and what was logged meanwhile.

        LostWorkerError: the process has ended. Anything else: what the worker has raised.
        """

    @abstractmethod
    def close(self) -> None:
        """End the process, in the middle of a job too."""


class Host:
    """Holds what runs jobs in a worker's process, and keeps its log messages.

    The driver logs these when it gets an answer, so that all messages of a search are in one place.
    """

    def __init__(self, plan: MakesWorker) -> None:
        keep_freed_memory()
        if bars := sys.modules.get("tqdm"):
            # Processes that are forked share its lock: one that is killed would leave it taken.
            bars.tqdm.set_lock(threading.RLock())
        self._records: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
        root = logging.getLogger()
        root.handlers = [QueueHandler(self._records)]
        root.setLevel(logging.INFO)
        self._run = plan.make()

    def ready(self) -> tuple[None, Records]:
        """Return the answer to a start."""
        return None, self._logged()

    def run(self, job: Job) -> tuple[Result, Records]:
        """Run a job."""
        return self._run(job), self._logged()

    def _logged(self) -> Records:
        return [self._records.get() for _ in range(self._records.qsize())]


class Pool:
    """Runs each job on the next free worker.

    A lost worker is started again, and its job is run again; after `MAX_ATTEMPTS` losses in the
    middle of one job (`MAX_MACHINES`, if they were lost with their machines), earlier sessions of
    the run included, its outcome is a `Failure`. A job
    that takes longer than `timeout` seconds (None: no limit) is a `Failure` at once, because each
    attempt would take as long. A worker that is lost `MAX_ATTEMPTS` times while it starts ends the
    search.
    """

    def __init__(
        self, workers: Sequence[RemoteWorker], attempts: Attempts, timeout: float | None = None
    ) -> None:
        self._workers, self._attempts = workers, attempts
        self._timeout = math.inf if timeout is None else timeout
        self._again: deque[Job] = deque()
        """Jobs whose worker was lost."""
        try:
            for number, worker in enumerate(workers):
                worker.number = number
                self._start(worker)
        except BaseException:
            self.close()
            raise

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Result]]:
        """Run jobs; see `Executor`."""
        left, is_over = iter(jobs), False
        while True:
            for worker in self._workers:
                while worker.is_ready and worker.job is None and not (is_over and not self._again):
                    job = self._again.popleft() if self._again else next(left, None)
                    if job is None:
                        is_over = True
                    elif (failure := self._attempts.given_up(job)) is not None:
                        yield job, failure
                    else:
                        self._give(worker, job)
            if is_over and not self._again and not any(worker.job for worker in self._workers):
                return
            for worker in self._answering():
                yield from self._take_answer(worker)
            yield from self._end_late_jobs()

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers:
            worker.close()

    def _start(self, worker: RemoteWorker) -> None:
        worker.rest(is_ready=False)
        worker.start()

    def _give(self, worker: RemoteWorker, job: Job) -> None:
        worker.job, worker.deadline = job, time.monotonic() + self._timeout
        worker.send(job)

    def _answering(self) -> list[RemoteWorker]:
        """Wait for answers, or until the next deadline; return who has one."""
        soonest = min(worker.deadline for worker in self._workers) - time.monotonic()
        signs = {sign: worker.number for worker in self._workers for sign in worker.signs()}
        answered = wait(list(signs), None if soonest == math.inf else max(0.0, soonest))
        numbers = {signs[sign] for sign in answered}
        return [worker for worker in self._workers if worker.number in numbers]

    def _take_answer(self, worker: RemoteWorker) -> Iterator[tuple[Job, Result]]:
        """Take what a worker has become: ready, done with its job, or lost."""
        job, place = worker.job, worker.place
        try:
            value, records = worker.answer()
        except (LostWorkerError, DeviceError) as error:
            yield from self._take_loss(worker, error)
            return
        except SearchError as error:
            raise SearchError(f"On {place}: {error}" if place and job else str(error)) from error
        for record in records:
            logging.getLogger(record.name).handle(record)
        worker.rest(is_ready=True)
        worker.failed_starts = 0
        if job is not None:
            yield job, value

    def _take_loss(self, worker: RemoteWorker, error: Exception) -> Iterator[tuple[Job, Result]]:
        """Start a lost worker again. Its job is run again too, or given up."""
        job = worker.job
        if job is not None:
            with_machine = isinstance(error, LostMachineError)
            self._attempts.note_loss(job, with_machine=with_machine)
        log.warning("Worker %d was lost (%s) and is started again.", worker.number, one_line(error))
        if not worker.is_ready:
            worker.failed_starts += 1
            if isinstance(error, DeviceError):
                raise error
            if worker.failed_starts >= MAX_ATTEMPTS:
                raise SearchError(
                    f"A worker was lost {MAX_ATTEMPTS} times while it was starting "
                    f"({one_line(error)}); if memory is short, set `executor.workers` to a smaller "
                    "number, then go on with `evomerge resume`."
                ) from error
        self._start(worker)
        if job is None:
            return
        if (failure := self._attempts.given_up(job, one_line(error))) is not None:
            yield job, failure
        else:
            self._again.appendleft(job)

    def _end_late_jobs(self) -> Iterator[tuple[Job, Result]]:
        """Replace the workers whose jobs have taken too long."""
        for worker in self._workers:
            is_late = worker.deadline <= time.monotonic() and not wait(worker.signs(), 0)
            if is_late and (job := worker.job) is not None:
                self._start(worker)
                reason = f"It took longer than executor.timeout, {self._timeout:g} seconds."
                yield job, Failure("timeout", reason)
