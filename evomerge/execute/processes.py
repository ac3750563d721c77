"""A worker in a process of its own on this machine.

On Linux all are forked from one server process that has imported the libraries, so that a worker is
ready, or replaced, in little time and shares their memory.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.connection import Connection, wait
from typing import Any

from evomerge.errors import SearchError, one_line
from evomerge.execute.pool import Host, LostWorkerError, Records, Worker
from evomerge.execute.protocol import Job, RunJob

END = 3.0
"""Seconds that a process has to end its own processes, until it is killed."""

_ALONE = "PYTHONSAFEPATH"
"""With this variable, a Python that is started does not look for modules where it stands: that of
`multiprocessing` would take a `socket.py` of the working folder for the library's."""


class ProcessWorker(Worker):
    """A worker in a process of its own; see `evomerge.execute.pool.Worker`.

    Args:
        make: makes what runs a job, in the process; it must be picklable.
        preload: modules that the server process imports; those of the first worker count.
    """

    def __init__(
        self, make: Callable[[], RunJob], preload: Sequence[str] = (), place: str = ""
    ) -> None:
        self._make, self._preload, self.place = make, list(preload), place
        self._process: Any = None
        self._pipe: Any = None

    def start(self) -> None:
        """Start a new process and make the worker in it; an old process is ended."""
        self.close()
        # On a Mac, libraries of the system do not survive a fork.
        context: Any = get_context("spawn" if sys.platform == "darwin" else "forkserver")
        context.set_forkserver_preload(self._preload)
        self._pipe, theirs = context.Pipe()
        # No daemon: those may not start processes of their own, as vLLM does.
        before = os.environ.get(_ALONE)
        self._process = context.Process(target=_serve, args=(theirs, self._make, before))
        os.environ[_ALONE] = "1"
        try:
            with theirs:
                self._process.start()
        finally:
            _put_back(before)

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


def _how(code: int | None) -> str:
    if code is None or code >= 0:
        return f"with the exit status {code}"
    names = {item.value: item.name for item in signal.Signals}
    return f"by the signal {names.get(-code, -code)}"


def _put_back(before: str | None) -> None:
    os.environ.pop(_ALONE, None)
    if before is not None:
        os.environ[_ALONE] = before


# What follows runs in the worker's process.


def _serve(pipe: Connection, make: Callable[[], RunJob], alone: str | None) -> None:
    """Make the worker, and answer jobs until the pipe is closed; `alone`: the user's `_ALONE`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the search's, which ends its workers
    signal.signal(signal.SIGTERM, _end)
    _put_back(alone)  # a Python that an objective starts looks where it stands
    _end_with_parent()
    try:
        host = Host(make)
        pipe.send(host.ready())
        while True:
            pipe.send(host.run(pipe.recv()))
    except (EOFError, BrokenPipeError):  # the search has ended
        return
    except BaseException as error:
        try:
            pipe.send((error, []))
        except Exception:  # it cannot be pickled
            pipe.send((SearchError(f"{type(error).__name__}: {one_line(error)}"), []))


def _end(*_: object) -> None:
    """End this process, and those that it has started."""
    for child in active_children():
        child.terminate()
    os._exit(1)


def _end_with_parent() -> None:
    """End this process when the one that started it ends, however it ends."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()
