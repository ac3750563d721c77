"""The executor that hands jobs to workers in other processes, and replaces workers that are lost.

How a worker is started, reached and ended is its own matter (`processes.py`, `ray.py`); this file
decides what each one runs, and what becomes of jobs whose worker is lost or that take too long.
"""

from __future__ import annotations

import logging
import math
import queue
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from logging.handlers import QueueHandler
from multiprocessing.connection import wait
from typing import Any, Protocol, TypeAlias

from tqdm import tqdm

from evomerge.errors import DeviceError, SearchError, one_line
from evomerge.evaluation.inference.device import processor
from evomerge.execute.allocator import keep_freed_memory
from evomerge.execute.protocol import Job, Result, RunJob
from evomerge.run.activity import Activity
from evomerge.run.attempts import MAX_ATTEMPTS
from evomerge.scores import Failure

START = 60.0
"""Seconds without a ready worker after which a person is told."""

log = logging.getLogger(__name__)

Records: TypeAlias = list[logging.LogRecord]


class LostWorkerError(Exception):
    """A worker ended before its job did; the message says how (`by the signal SIGKILL`)."""


class LostMachineError(LostWorkerError):
    """A worker ended because its machine is gone, so its job is not at fault."""


class Worker(Protocol):
    """A worker in another process, perhaps on another machine, that runs one job at a time.

    Attributes:
        place: where it runs, for people: a device, or a machine. Empty: nothing to say.
    """

    place: str

    def start(self) -> None:
        """Start it in a new process, and end an old one. The kind of its processor is an answer."""
        ...

    def send(self, job: Job) -> None:
        """Begin a job, whose result is an answer."""
        ...

    def signs(self) -> Sequence[Any]:
        """Return what `multiprocessing.connection.wait` finds ready if there is an answer."""
        ...

    def answer(self) -> tuple[Any, Records]:
        """Return the next answer, and what was logged meanwhile.

        LostWorkerError: the process has ended. Anything else: what the worker has raised.
        """
        ...

    def close(self) -> None:
        """End the process, in the middle of a job too."""
        ...


class Host:
    """Holds what runs a job (`make` makes it) in a worker's process; keeps its log messages.

    The driver logs these when it gets an answer, so that all messages of a search are in one place.
    """

    def __init__(self, make: Callable[[], RunJob]) -> None:
        keep_freed_memory()
        # tqdm's own lock is for several processes: one that is killed leaves it behind in the
        # system.
        tqdm.set_lock(threading.RLock())
        self._records: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
        root = logging.getLogger()
        root.handlers = [QueueHandler(self._records)]
        root.setLevel(logging.INFO)
        self._run = make()

    def ready(self) -> tuple[str, Records]:
        """Return the kind of this processor, or "" if no model is scored: the answer to a start."""
        return processor() if "torch" in sys.modules else "", self._logged()

    def run(self, job: Job) -> tuple[Result, Records]:
        """Run a job."""
        return self._run(job), self._logged()

    def _logged(self) -> Records:
        return [self._records.get() for _ in range(self._records.qsize())]


class Pool:
    """Runs each job on the next free worker.

    A worker that is lost is started again. Its job is given to the next free worker; after
    `MAX_ATTEMPTS` losses in the middle of one job, the outcome of this job is a `Failure`. Losses
    of whole machines do not count. A job that takes too long is a `Failure` at once, because each
    attempt would take as long.

    A worker that is lost `MAX_ATTEMPTS` times while it starts ends the search.

    Args:
        workers: the workers; the pool closes them.
        timeout: seconds that a job may take; None: no limit.
        count_loss: is told of each worker that was lost in the middle of a job. Returns how often
            that has happened in the middle of this job, earlier sessions of the run included.
        activity: is told what each worker does.
        note_processor: is told of the kind of each worker's processor when it is ready; empty: the
            worker scores no model.

    Attributes:
        losses: number of workers that were lost.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        timeout: float | None = None,
        count_loss: Callable[[Job], int] | None = None,
        activity: Activity | None = None,
        note_processor: Callable[[str], None] = lambda kind: None,
    ) -> None:
        self._workers, self._timeout = tuple(workers), math.inf if timeout is None else timeout
        self._count_loss = count_loss or self._count_in_memory
        self._lost: Counter[int] = Counter()  # by job, if nobody else counts
        self._activity = activity or Activity(None)
        self.width, self.losses = len(self._workers), 0
        self._queue: deque[Job] = deque()
        self._done: deque[tuple[Job, Result]] = deque()
        self._running: dict[int, tuple[Job, float]] = {}  # worker -> job, until a deadline
        self._free: list[int] = []
        self._failed_starts: Counter[int] = Counter()
        self._last_ready, self._warned = time.monotonic(), False
        self._note_processor = note_processor
        try:
            for number in range(self.width):
                self._start(number)
        except BaseException:
            self.close()
            raise

    def submit(self, jobs: Sequence[Job]) -> None:
        """Add jobs to the queue."""
        self._queue.extend(jobs)
        self._hand_out()

    def next(self) -> tuple[Job, Result]:
        """Wait until a job is done; return it with its outcome.

        Raises:
            EvomergeError: the search cannot go on.
        """
        while not self._done:
            self._hand_out()
            for number in self._answering():
                self._take_answer(number)
            self._end_late_jobs()
        self._hand_out()  # so that no worker waits until the outcome is recorded
        return self._done.popleft()

    def withdraw(self) -> Sequence[Job]:
        """Take back the jobs that no worker has, and return them."""
        jobs = tuple(self._queue)
        self._queue.clear()
        return jobs

    def close(self) -> None:
        """End all workers."""
        self._queue.clear()
        self._running.clear()
        with ExitStack() as ends:  # ends all, also if one of them raises
            for worker in self._workers:
                ends.callback(worker.close)

    def _answering(self) -> list[int]:
        """Wait for answers, at most until the next deadline; return who has one."""
        soonest = min((deadline for _, deadline in self._running.values()), default=math.inf)
        waits = (self._activity.write_if_due(), max(0.0, soonest - time.monotonic()), START)
        signs = {item: i for i, worker in enumerate(self._workers) for item in worker.signs()}
        ready = wait(list(signs), min(item for item in waits if item is not None))
        if not ready:
            self._warn_of_waiting()
        return sorted({signs[item] for item in ready})

    def _warn_of_waiting(self) -> None:
        """Warn once if no worker runs anything, and none has become ready for `START` seconds."""
        waited = time.monotonic() - self._last_ready
        if self._warned or self._running or waited < START:
            return
        self._warned = True
        log.warning(
            "No worker has become ready for %.0f seconds: %d are starting. If they wait for "
            "resources of a cluster that are in use, the search goes on when these are free.",
            waited,
            self.width - len(self._free),
        )

    def _start(self, number: int) -> None:
        self._workers[number].start()
        self._activity.note(number, "starting")

    def _hand_out(self) -> None:
        """Give a job to each free worker, as long as there are jobs."""
        while self._free and self._queue:
            number, job = self._free.pop(), self._queue.popleft()
            worker = self._workers[number]
            self._running[number] = job, time.monotonic() + self._timeout
            self._activity.note(number, "scoring", worker.place, [job.candidate], job.split)
            worker.send(job)

    def _take_answer(self, number: int) -> None:
        """Take what a worker has become: ready, done with its job, or lost."""
        job, _ = self._running.pop(number, (None, 0.0))
        try:
            value, records = self._workers[number].answer()
        except LostWorkerError as error:
            if number in self._free:
                self._free.remove(number)
                self._replace(number)
            elif job is None:
                self._take_failed_start(number, error)
            else:
                self._take_loss(number, job, error)
            return
        except DeviceError as error:
            if job is None:
                raise
            self._take_loss(number, job, error)
            return
        except SearchError as error:
            place = self._workers[number].place
            raise SearchError(f"On {place}: {error}" if place and job else str(error)) from error
        for record in records:
            logging.getLogger(record.name).handle(record)
        if job is None:
            self._failed_starts[number] = 0
            self._note_processor(value)
        else:
            self._done.append((job, value))
        self._last_ready, self._warned = time.monotonic(), False
        self._free.append(number)
        self._activity.note(number, "free", self._workers[number].place)

    def _take_failed_start(self, number: int, error: LostWorkerError) -> None:
        self._failed_starts[number] += not isinstance(error, LostMachineError)
        if self._failed_starts[number] >= MAX_ATTEMPTS:
            raise SearchError(
                f"A worker was lost {MAX_ATTEMPTS} times while it was starting "
                f"({one_line(error)}); if memory is short, set `executor.workers` to a smaller "
                "number, then go on with `evomerge resume`."
            ) from error
        self._start(number)

    def _take_loss(self, number: int, job: Job, error: Exception) -> None:
        """Run a job again whose worker was lost, or give it up."""
        self._replace(number)
        count = 0 if isinstance(error, LostMachineError) else self._count_loss(job)
        if count < MAX_ATTEMPTS:
            self._queue.appendleft(job)
            return
        reason = f"{count} processes ended while this candidate was scored ({one_line(error)})."
        self._done.append((job, Failure("lost", reason)))

    def _count_in_memory(self, job: Job) -> int:
        self._lost[job.id] += 1
        return self._lost[job.id]

    def _end_late_jobs(self) -> None:
        """Replace the workers whose jobs have taken too long."""
        for number, (job, deadline) in list(self._running.items()):
            if deadline <= time.monotonic() and not wait(self._workers[number].signs(), 0):
                del self._running[number]
                self._replace(number)
                reason = f"It took longer than executor.timeout, {self._timeout:g} seconds."
                self._done.append((job, Failure("timeout", reason)))

    def _replace(self, number: int) -> None:
        """Start a worker again that was lost."""
        self.losses += 1
        self._activity.note_loss()
        self._start(number)
