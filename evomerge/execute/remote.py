"""The executor that hands jobs to workers in other processes, and replaces workers that are lost.

How a worker is started, reached and ended is its own matter (`RemoteWorker`); this file decides
what each one runs, and what becomes of jobs whose worker is lost.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, Protocol, TypeAlias

from evomerge.errors import DeviceError, SearchError, one_line
from evomerge.execute.protocol import Job
from evomerge.run.attempts import MAX_ATTEMPTS
from evomerge.scores import Failure, Outcome

Batch: TypeAlias = tuple[Job, ...]
"""Jobs that one worker runs together, such as a part of a generation of paths."""


class LostWorkerError(Exception):
    """A worker ended before its jobs did; the message says how (`signal SIGKILL`)."""


class WorkerTimeoutError(Exception):
    """A worker was ended, because its jobs took too long."""


class RemoteWorker(Protocol):
    """A worker in another process, perhaps on another machine.

    The futures of both methods may raise `LostWorkerError`, or what the worker has raised. A worker
    that is lost, or ran out of time, runs nothing more until it is started again.
    """

    def start(self) -> Future[None]:
        """Make the worker ready, in a new process; the old one is ended, if there is one."""
        ...

    def run(self, jobs: Batch, timeout: float | None) -> Future[list[tuple[Job, Outcome]]]:
        """Run jobs.

        Args:
            jobs: what to build and score.
            timeout: seconds after which the worker is ended and the future raises
                `WorkerTimeoutError`; None: no limit.
        """
        ...

    def close(self) -> None:
        """End the process, in the middle of jobs too."""
        ...


def each_alone(jobs: Sequence[Job]) -> list[Batch]:
    """Divide jobs into batches of one."""
    return [(job,) for job in jobs]


class RemoteExecutor:
    """Runs each batch of jobs on the next free worker.

    A worker that is lost is started again. Its job is given to the next free worker; after
    `MAX_ATTEMPTS` losses in the middle of one job, the outcome of this job is a `Failure`. A job
    that takes too long is a `Failure` at once, because each attempt would take as long. If several
    jobs were run together, each of them is first run again alone, since any of them may be the
    cause.

    A worker that fails to start ends the search: the next one would fail in the same way.

    Args:
        workers: the workers; the executor closes them.
        timeout: seconds that a job may take; None: no limit.
        divide: divides the jobs of one `submit` into batches.
        count_loss: is told of each worker that was lost in the middle of a job. Returns how often
            that has happened in the middle of this job, earlier sessions of the run included.

    Attributes:
        losses: number of workers that were lost.
    """

    def __init__(
        self,
        workers: Sequence[RemoteWorker],
        timeout: float | None = None,
        divide: Callable[[Sequence[Job]], list[Batch]] = each_alone,
        count_loss: Callable[[Job], int] | None = None,
    ) -> None:
        self._workers, self._timeout, self._divide = tuple(workers), timeout, divide
        self._count_loss = count_loss or _count_in_memory()
        self.width, self.losses = len(self._workers), 0
        self._queue: deque[Batch] = deque()
        self._done: deque[tuple[Job, Outcome]] = deque()
        self._starting: dict[Future[None], int] = {}
        self._running: dict[Future[list[tuple[Job, Outcome]]], tuple[int, Batch]] = {}
        self._free: list[int] = []
        for number in range(self.width):
            self._start(number)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Add jobs to the queue."""
        self._queue.extend(self._divide(jobs))
        self._hand_out()

    def next(self) -> tuple[Job, Outcome]:
        """Wait until a job is done; return it with its outcome.

        Raises:
            EvomergeError: the search cannot go on.
        """
        while not self._done:
            self._hand_out()
            futures: list[Future[Any]] = [*self._starting, *self._running]
            done, _ = wait(futures, return_when=FIRST_COMPLETED)
            for future in done:
                if future in self._starting:
                    self._take_started(future)
                else:
                    self._take_outcomes(future)
        return self._done.popleft()

    def close(self) -> None:
        """End all workers."""
        self._queue.clear()
        self._running.clear()
        for worker in self._workers:
            worker.close()

    def _start(self, number: int) -> None:
        self._starting[self._workers[number].start()] = number

    def _hand_out(self) -> None:
        """Give a batch to each free worker, as long as there are batches."""
        while self._free and self._queue:
            number, batch = self._free.pop(), self._queue.popleft()
            timeout = None if self._timeout is None else self._timeout * len(batch)
            self._running[self._workers[number].run(batch, timeout)] = number, batch

    def _take_started(self, future: Future[None]) -> None:
        number = self._starting.pop(future)
        try:
            future.result()
        except LostWorkerError as error:
            raise SearchError(
                f"A worker process ended while it was starting ({one_line(error)}); if memory is "
                "short, set `executor.workers` to a smaller number, then go on with `evomerge "
                "resume`."
            ) from error
        self._free.append(number)

    def _take_outcomes(self, future: Future[list[tuple[Job, Outcome]]]) -> None:
        number, batch = self._running.pop(future)
        try:
            self._done.extend(future.result())
        except (LostWorkerError, WorkerTimeoutError, DeviceError) as error:
            self.losses += 1
            self._start(number)
            if len(batch) > 1:
                self._queue.extendleft(reversed(each_alone(batch)))
            else:
                self._take_loss(batch[0], error)
        else:
            self._free.append(number)

    def _take_loss(self, job: Job, error: Exception) -> None:
        """Run a job again whose worker was lost, or give it up."""
        if isinstance(error, WorkerTimeoutError):
            reason = f"It took longer than executor.timeout, {self._timeout:g} seconds."
            self._done.append((job, Failure("timeout", reason)))
            return
        count = self._count_loss(job)
        if count < MAX_ATTEMPTS:
            self._queue.appendleft((job,))
            return
        reason = f"{count} processes ended while this candidate was scored ({one_line(error)})."
        self._done.append((job, Failure("lost", reason)))


def _count_in_memory() -> Callable[[Job], int]:
    """Return a function that counts the losses of each job of this executor."""
    losses: Counter[int] = Counter()

    def count(job: Job) -> int:
        losses[job.id] += 1
        return losses[job.id]

    return count
