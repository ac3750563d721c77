"""A worker in a process of its own on this machine.

On Linux all are forked from one server process that has imported the libraries, so that a worker is
ready, or replaced, in little time and shares their memory.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from multiprocessing.connection import Connection, wait
from typing import Any

from evomerge.errors import SearchError, one_line
from evomerge.execute.pool import Host, LostWorkerError, Records, Worker
from evomerge.execute.protocol import Job, RunJob

END = 3.0
"""Seconds that a process has to end its own processes, until it is killed."""

_ALONE = "PYTHONSAFEPATH"
_ALONE_ALWAYS = _ALONE in os.environ  # set by the user


class ProcessWorker(Worker):
    """A worker in a process of its own; see `evomerge.execute.pool.Worker`.

    Args:
        make: makes what runs a job, in the process; it must be picklable.
        preload: modules that the server process imports; those of the first worker count.
    """

    def __init__(
        self, make: Callable[[], RunJob], preload: Sequence[str] = (), place: str = ""
    ) -> None:
        self._make, self._preload, self.place = make, tuple(preload), place
        self._process: Any = None
        self._pipe: Any = None

    def start(self) -> None:
        """Start a new process and make the worker in it; an old process is ended."""
        self.close()
        context = _context(self._preload)
        self._pipe, theirs = context.Pipe()
        # No daemon: those may not start processes of their own, as vLLM does.
        self._process = context.Process(target=_serve, args=(theirs, self._make, _ALONE_ALWAYS))
        with theirs, _no_modules_from_here():
            self._process.start()

    def send(self, job: Job) -> None:
        """Begin a job."""
        with suppress(OSError):  # the process has ended, which is the answer
            self._pipe.send(job)

    def signs(self) -> Sequence[Any]:
        """Return the pipe, and what tells that the process has ended."""
        return () if self._process is None else (self._pipe, self._process.sentinel)

    def answer(self) -> tuple[Any, Records]:
        """Return the next answer; see `Worker`."""
        try:
            if not self._pipe.poll() and not self._process.is_alive():
                raise EOFError
            value, records = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            raise LostWorkerError(_how(self._process.exitcode)) from None
        if isinstance(value, BaseException):
            raise value
        return value, records

    def close(self) -> None:
        """End the process."""
        if self._process is None:
            return
        self._process.terminate()
        self._process.join(END)
        self._process.kill()
        self._process.join()
        self._pipe.close()
        self._process = None


@contextmanager
def _no_modules_from_here() -> Iterator[None]:
    """While the block runs, a Python that is started does not look for modules where it stands.

    That of `multiprocessing` would take a `socket.py` of the working folder for the library's.
    """
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


def _how(code: int | None) -> str:
    if code is None or code >= 0:
        return f"with the exit status {code}"
    names = {item.value: item.name for item in signal.Signals}
    return f"by the signal {names.get(-code, -code)}"


# What follows runs in the worker's process.


def _serve(pipe: Connection, make: Callable[[], RunJob], alone: bool) -> None:
    """Make the worker, and answer jobs until the pipe is closed; `alone`: see `_ALONE_ALWAYS`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the search's, which ends its workers
    signal.signal(signal.SIGTERM, _end)
    if not alone:
        os.environ.pop(_ALONE, None)  # a Python that an objective starts looks where it stands
    _end_with_parent()
    try:
        host = Host(make)
        pipe.send(host.ready())
        while True:
            pipe.send(host.run(pipe.recv()))
    except (EOFError, BrokenPipeError):  # the search has ended
        return
    except BaseException as error:
        answer: BaseException = error
    try:
        pipe.send((answer, []))
    except Exception:  # it cannot be pickled
        pipe.send((SearchError(f"{type(answer).__name__}: {one_line(answer)}"), []))


def _end(*_: object) -> None:
    """End this process, and those that it has started."""
    for child in multiprocessing.active_children():
        child.terminate()
    os._exit(1)


def _end_with_parent() -> None:
    """End this process when the one that started it ends, however it ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()
