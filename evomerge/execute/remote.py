"""The executor that hands jobs to workers in other processes, and replaces workers that are lost.

How a worker is started, reached and ended is its own matter (`processes.py`, `ray.py`); this file
decides what each one runs, and what becomes of jobs whose worker is lost or that take too long.
"""

from __future__ import annotations

import logging
import math
import queue
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any, Protocol

from evomerge.errors import DeviceError, SearchError, one_line
from evomerge.execute.protocol import Job, Result
from evomerge.run.activity import Activity
from evomerge.run.attempts import MAX_ATTEMPTS
from evomerge.scores import Failure

START = 60.0
"""Seconds without a ready worker after which a person is told."""

log = logging.getLogger(__name__)


class LostWorkerError(Exception):
    """A worker ended before its jobs did; the message says how (`by the signal SIGKILL`)."""


class LostMachineError(LostWorkerError):
    """A worker ended because its machine is gone, so its jobs are not at fault."""


class RemoteWorker(Protocol):
    """A worker in another process, perhaps on another machine.

    The futures may raise `LostWorkerError`, or what the worker has raised. A worker that is lost or
    closed runs nothing more until it is started again.
    """

    @property
    def place(self) -> str:
        """Where it runs, for people: a device, or a machine. Empty: nothing to say."""
        ...

    def start(self) -> Future[str]:
        """Start the worker in a new process, end an old one; its kind of processor, if known."""
        ...

    def run(self, job: Job) -> Future[Result]:
        """Run a job."""
        ...

    def close(self) -> None:
        """End the process, in the middle of a job too."""
        ...


class RemoteExecutor:
    """Runs each job on the next free worker.

    A worker that is lost is started again. Its job is given to the next free worker; after
    `MAX_ATTEMPTS` losses in the middle of one job, the outcome of this job is a `Failure`. Losses
    of whole machines do not count. A job that takes too long is a `Failure` at once, because each
    attempt would take as long.

    A worker that is lost `MAX_ATTEMPTS` times while it starts ends the search.

    Args:
        workers: the workers; the executor closes them.
        timeout: seconds that a job may take; None: no limit.
        count_loss: is told of each worker that was lost in the middle of a job. Returns how often
            that has happened in the middle of this job, earlier sessions of the run included.
        activity: is told what each worker does.
        processor: kind of the processor where the search runs; empty: only workers are compared.

    Attributes:
        losses: number of workers that were lost.
    """

    def __init__(
        self,
        workers: Sequence[RemoteWorker],
        timeout: float | None = None,
        count_loss: Callable[[Job], int] | None = None,
        activity: Activity | None = None,
        processor: str = "",
    ) -> None:
        self._workers, self._timeout = tuple(workers), math.inf if timeout is None else timeout
        self._count_loss = count_loss or self._count_in_memory
        self._lost: Counter[int] = Counter()  # by job, if nobody else counts
        self._activity = activity or Activity(None)
        self.width, self.losses = len(self._workers), 0
        self._queue: deque[Job] = deque()
        self._done: deque[tuple[Job, Result]] = deque()
        self._starting: dict[Future[Any], int] = {}
        self._running: dict[Future[Any], tuple[int, Job, float]] = {}  # until a deadline
        self._finished: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
        self._free: list[int] = []
        self._failed_starts: Counter[int] = Counter()
        self._last_ready, self._warned = time.monotonic(), False
        self._processors = [processor] if processor else []
        for number in range(self.width):
            self._start(number)

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
            future = self._wait()
            if future is None:
                self._end_late_jobs()
                self._warn_of_waiting()
            elif future in self._starting:
                self._take_started(future)
            elif future in self._running:
                self._take_outcome(future)
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

    def _wait(self) -> Future[Any] | None:
        """Return a finished future; None if it is time to look at the deadlines."""
        soonest = min((deadline for _, _, deadline in self._running.values()), default=math.inf)
        waits = (self._activity.write_if_due(), max(0.0, soonest - time.monotonic()), START)
        try:
            return self._finished.get(timeout=min(wait for wait in waits if wait is not None))
        except queue.Empty:
            return None

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
            len(self._starting),
        )

    def _start(self, number: int) -> None:
        future = self._workers[number].start()
        self._starting[future] = number
        self._activity.note(number, "starting")
        future.add_done_callback(self._finished.put)

    def _hand_out(self) -> None:
        """Give a job to each free worker, as long as there are jobs."""
        while self._free and self._queue:
            number, job = self._free.pop(), self._queue.popleft()
            worker = self._workers[number]
            future = worker.run(job)
            self._running[future] = number, job, time.monotonic() + self._timeout
            self._activity.note(number, "scoring", worker.place, [job.candidate], job.split)
            future.add_done_callback(self._finished.put)

    def _take_started(self, future: Future[Any]) -> None:
        number = self._starting.pop(future)
        try:
            self._note_processor(future.result())
        except LostWorkerError as error:
            self._failed_starts[number] += not isinstance(error, LostMachineError)
            if self._failed_starts[number] >= MAX_ATTEMPTS:
                raise SearchError(
                    f"A worker was lost {MAX_ATTEMPTS} times while it was starting "
                    f"({one_line(error)}); if memory is short, set `executor.workers` to a smaller "
                    "number, then go on with `evomerge resume`."
                ) from error
            self._start(number)
            return
        self._failed_starts[number] = 0
        self._set_free(number)

    def _note_processor(self, kind: str) -> None:
        """Warn if a worker's processor is of a kind that no other process of the search has."""
        if not kind or kind in self._processors:
            return
        self._processors.append(kind)
        if len(self._processors) > 1:
            log.warning(
                "The processes of this search are on several kinds of processors (%s): every score "
                "is right, but its last digits may depend on the worker that computed it, so the "
                "search can be repeated bit for bit only on one kind.",
                "; ".join(self._processors),
            )

    def _take_outcome(self, future: Future[Any]) -> None:
        number, job, _ = self._running.pop(future)
        try:
            self._done.append((job, future.result()))
        except (LostWorkerError, DeviceError) as error:
            self._replace(number)
            self._take_loss(job, error)
        except SearchError as error:
            place = self._workers[number].place
            raise SearchError(f"On {place}: {error}" if place else str(error)) from error
        else:
            self._set_free(number)

    def _end_late_jobs(self) -> None:
        """Replace the workers whose jobs have taken too long."""
        for future, (number, job, deadline) in list(self._running.items()):
            if deadline <= time.monotonic() and not future.done():
                del self._running[future]
                self._replace(number)
                reason = f"It took longer than executor.timeout, {self._timeout:g} seconds."
                self._done.append((job, Failure("timeout", reason)))

    def _count_in_memory(self, job: Job) -> int:
        self._lost[job.id] += 1
        return self._lost[job.id]

    def _set_free(self, number: int) -> None:
        self._last_ready, self._warned = time.monotonic(), False
        self._free.append(number)
        self._activity.note(number, "free", self._workers[number].place)

    def _replace(self, number: int) -> None:
        """Start a worker again that was lost."""
        self.losses += 1
        self._activity.note_loss()
        self._start(number)

    def _take_loss(self, job: Job, error: Exception) -> None:
        """Run a job again whose worker was lost, or give it up."""
        count = 0 if isinstance(error, LostMachineError) else self._count_loss(job)
        if count < MAX_ATTEMPTS:
            self._queue.appendleft(job)
            return
        reason = f"{count} processes ended while this candidate was scored ({one_line(error)})."
        self._done.append((job, Failure("lost", reason)))
