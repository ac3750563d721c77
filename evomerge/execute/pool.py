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
from dataclasses import dataclass
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


@dataclass
class _Slot:
    """A worker, and the job that it runs until a deadline.

    Attributes:
        is_ready: whether it has started.
        failed_starts: how often it was lost while it started, one time after the other.
    """

    number: int
    worker: Worker
    job: Job | None = None
    deadline: float = math.inf
    is_ready: bool = False
    failed_starts: int = 0


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
            None: they are counted here.
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
        self._slots = [_Slot(number, worker) for number, worker in enumerate(workers)]
        self._timeout = math.inf if timeout is None else timeout
        self._count_loss, self._lost = count_loss, Counter[int]()  # by job
        self._activity, self._note_processor = activity or Activity(None), note_processor
        self.width, self.losses = len(self._slots), 0
        self._queue: deque[Job] = deque()
        self._done: deque[tuple[Job, Result]] = deque()
        try:
            for slot in self._slots:
                self._start(slot)
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
            for slot in self._answering():
                self._take_answer(slot)
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
        with ExitStack() as ends:  # ends all, also if one of them raises
            for slot in self._slots:
                slot.job, slot.deadline, slot.is_ready = None, math.inf, False
                ends.callback(slot.worker.close)

    def _start(self, slot: _Slot) -> None:
        slot.job, slot.deadline, slot.is_ready = None, math.inf, False
        slot.worker.start()
        self._activity.note(slot.number, "starting")

    def _replace(self, slot: _Slot) -> None:
        """Start a worker again that was lost."""
        self.losses += 1
        self._activity.note_loss()
        self._start(slot)

    def _hand_out(self) -> None:
        """Give a job to each free worker, as long as there are jobs."""
        for slot in self._slots:
            if self._queue and slot.is_ready and slot.job is None:
                job = slot.job = self._queue.popleft()
                slot.deadline, place = time.monotonic() + self._timeout, slot.worker.place
                self._activity.note(slot.number, "scoring", place, [job.candidate], job.split)
                slot.worker.send(job)

    def _answering(self) -> list[_Slot]:
        """Wait for answers, at most until the next deadline; return who has one."""
        soonest = min(slot.deadline for slot in self._slots) - time.monotonic()
        due = self._activity.write_if_due()
        seconds = max(0.0, min(soonest, math.inf if due is None else due))
        signs = {sign: slot for slot in self._slots for sign in slot.worker.signs()}
        found = wait(list(signs), None if seconds == math.inf else seconds)
        numbers = {signs[sign].number for sign in found}
        return [slot for slot in self._slots if slot.number in numbers]

    def _take_answer(self, slot: _Slot) -> None:
        """Take what a worker has become: ready, done with its job, or lost."""
        job, place = slot.job, slot.worker.place
        try:
            value, records = slot.worker.answer()
        except (LostWorkerError, DeviceError) as error:
            self._take_loss(slot, error)
            return
        except SearchError as error:
            raise SearchError(f"On {place}: {error}" if place and job else str(error)) from error
        for record in records:
            logging.getLogger(record.name).handle(record)
        if job is None:
            self._note_processor(value)
        else:
            self._done.append((job, value))
        slot.job, slot.deadline, slot.is_ready, slot.failed_starts = None, math.inf, True, 0
        self._activity.note(slot.number, "free", slot.worker.place)

    def _take_loss(self, slot: _Slot, error: Exception) -> None:
        """Start a lost worker again. Its job is run again too, or given up."""
        job, counts = slot.job, not isinstance(error, LostMachineError)
        if job is None and not slot.is_ready:
            slot.failed_starts += counts
            if isinstance(error, DeviceError):
                raise error
            if slot.failed_starts >= MAX_ATTEMPTS:
                raise SearchError(
                    f"A worker was lost {MAX_ATTEMPTS} times while it was starting "
                    f"({one_line(error)}); if memory is short, set `executor.workers` to a smaller "
                    "number, then go on with `evomerge resume`."
                ) from error
            self._start(slot)
            return
        self._replace(slot)
        if job is None:
            return
        count = 0
        if counts:
            self._lost[job.id] += 1
            count = self._count_loss(job) if self._count_loss else self._lost[job.id]
        if count < MAX_ATTEMPTS:
            self._queue.appendleft(job)
            return
        reason = f"{count} processes ended while this candidate was scored ({one_line(error)})."
        self._done.append((job, Failure("lost", reason)))

    def _end_late_jobs(self) -> None:
        """Replace the workers whose jobs have taken too long."""
        for slot in self._slots:
            is_late = slot.deadline <= time.monotonic() and not wait(slot.worker.signs(), 0)
            if is_late and (job := slot.job) is not None:
                self._replace(slot)
                reason = f"It took longer than executor.timeout, {self._timeout:g} seconds."
                self._done.append((job, Failure("timeout", reason)))
