"""A worker in a process of its own on this machine.

The process comes from the library pebble, which can end it and reports how it ended. On Linux all
workers are forked from one server process that has imported the libraries, so that a worker is
ready, or replaced, in little time and shares their memory.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cache
from multiprocessing.connection import wait
from typing import Any, TypeVar

from pebble import ProcessExpired, ProcessPool

from evomerge.execute.protocol import Job, Result, RunJobs
from evomerge.execute.remote import LostWorkerError
from evomerge.execute.worker_process import Reply, WorkerProcess, unpack

T = TypeVar("T")

_ALONE = "PYTHONSAFEPATH"
_ALONE_ALWAYS = _ALONE in os.environ  # set by the user

_starting = threading.Lock()


class ProcessWorker:
    """A worker in a process of its own.

    Args:
        make: makes what runs the jobs, in the process; it must be picklable.
        preload: modules that the server process imports. All workers of this process have the same
            server, so the first worker's modules count.
        place: where it runs, for people.
    """

    def __init__(
        self, make: Callable[[], RunJobs], preload: Sequence[str] = (), place: str = ""
    ) -> None:
        self._make, self._preload, self.place = make, tuple(preload), place
        self._pool: ProcessPool | None = None

    def start(self) -> Future[str]:
        """Start a new process and make the worker in it; an old process is ended."""
        self.close()
        with _no_modules_from_here():
            self._pool = _pool(self._preload)
            return _schedule(self._pool, _start, self._make, str)

    def run(self, job: Job) -> Future[Result]:
        """Run a job; see `RemoteWorker`."""
        assert self._pool is not None
        try:
            return _schedule(self._pool, _run, job, unpack)
        except RuntimeError:  # the pool has noticed that its process ended
            lost: Future[Result] = Future()
            lost.set_exception(LostWorkerError("it ended between two jobs"))
            return lost

    def close(self) -> None:
        """End the process."""
        if self._pool is not None:
            self._pool.stop()  # type: ignore[no-untyped-call]
            self._pool.join()
            self._pool = None


def _pool(preload: tuple[str, ...]) -> ProcessPool:
    """Return a pool of one process, which is started when the first call is scheduled."""
    first = None if _ALONE_ALWAYS else _find_modules_as_always
    return ProcessPool(max_workers=1, context=_context(preload), initializer=first)


@contextmanager
def _no_modules_from_here() -> Iterator[None]:
    """While the block runs, a Python that is started does not look for modules where it stands.

    `multiprocessing` starts a Python with `-c`, which takes modules of the working folder even for
    those of the standard library; a stranger's folder may have a `socket.py`.
    """
    with _starting:
        os.environ[_ALONE] = "1"
        try:
            yield
        finally:
            if not _ALONE_ALWAYS:
                del os.environ[_ALONE]


@cache
def _context(preload: tuple[str, ...]) -> Any:
    """Return how processes are started: forked from a server if there is one, else from nothing."""
    if "forkserver" not in multiprocessing.get_all_start_methods() or sys.platform == "darwin":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    return context


def _schedule(
    pool: ProcessPool,
    function: Callable[[Any], Any],
    argument: Any,
    unpack: Callable[[Any], Any],
) -> Future[Any]:
    """Return a future of the unpacked result of a call, with this package's errors."""
    answer: Future[Any] = Future()

    def finish(done: Future[Any]) -> None:
        try:
            answer.set_result(unpack(done.result()))
        except ProcessExpired as error:
            answer.set_exception(LostWorkerError(_how(error.exitcode)))
        except BrokenProcessPool:  # the process ended before it said that it has begun
            answer.set_exception(LostWorkerError("just after it began"))
        except BaseException as error:
            answer.set_exception(error)

    pool.schedule(function, (argument,)).add_done_callback(finish)
    return answer


def _how(code: int | None) -> str:
    """Return how a process ended, as text."""
    if code is not None and code < 0:
        names = {item.value: item.name for item in signal.Signals}
        return f"by the signal {names.get(-code, -code)}"
    return f"with the exit status {code}"


# What follows runs in the worker's process.

_host: WorkerProcess | None = None


def _find_modules_as_always() -> None:
    """Let a Python that an objective starts look for modules where it stands."""
    os.environ.pop(_ALONE, None)


def _start(make: Callable[[], RunJobs]) -> str:
    global _host
    _end_with_parent()
    _host = WorkerProcess(make)
    return _host.processor


def _run(job: Job) -> Reply:
    if _host is None:  # this process was started in place of another
        raise LostWorkerError("it ended between two jobs")
    return _host.run(job)


def _end_with_parent() -> None:
    """End this process when the one that started it ends, however it ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()
