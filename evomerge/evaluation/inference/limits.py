"""Limits on time, memory and length for templates, which come in the files of strangers.

Jinja's sandbox bounds none of them.
"""

from __future__ import annotations

import ctypes
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from evomerge.errors import one_line

LONGEST = 20_000_000
"""Largest number of characters of a prompt."""

ROOM = 1 << 29
"""Bytes that a template may take while it is rendered."""

_Result = TypeVar("_Result")


class RefusedError(Exception):
    """A template failed or reached a limit. The text is a part of a sentence that says why."""


class _LateError(BaseException):
    """Raised in the thread that renders for too long."""


def limited(render: Callable[[], _Result], seconds: float) -> _Result:
    """Return what a function returns; a text of at most `LONGEST` characters, or anything else.

    Args:
        render: compiles or renders a template.
        seconds: the largest time; see `_time_limit`.

    Raises:
        RefusedError: it raises an error, or it takes more time or memory, or the text is longer.
    """
    try:
        with _memory_limit(ROOM), _time_limit(seconds):
            made = render()
    except _LateError:
        raise RefusedError(f"it does not end within {seconds:g} s") from None
    except MemoryError:
        raise RefusedError("memory runs out") from None
    except Exception as error:  # a template may call raise_exception, or divide by zero
        raise RefusedError(f"{type(error).__name__}: {one_line(error)}".rstrip(".")) from error
    if isinstance(made, str) and len(made) > LONGEST:
        raise RefusedError(f"it makes a text of {len(made)} characters")
    return made


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise a `_LateError` in this thread if the block takes longer.

    In the main thread the seconds are CPU time of the process, and the error also ends powers and
    regular expressions. Other threads get no signals: there the seconds are wall-clock time, and
    the error comes between two steps of Python.
    """
    is_main = threading.current_thread() is threading.main_thread()
    with _signal_after(seconds) if is_main else _error_after(seconds):
        yield


@contextmanager
def _signal_after(seconds: float) -> Iterator[None]:
    def end(*_: Any) -> None:
        raise _LateError

    handler = signal.signal(signal.SIGVTALRM, end)
    wait = interval = left = 0.0
    try:
        try:
            wait, interval = signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
            yield
        finally:
            left = signal.setitimer(signal.ITIMER_VIRTUAL, 0)[0]
    finally:  # also if the signal came while the timer was stopped
        signal.signal(signal.SIGVTALRM, handler)
        if wait:  # somebody else's timer goes on
            rest = max(wait - (seconds - left), 1e-6)
            signal.setitimer(signal.ITIMER_VIRTUAL, rest, interval)


@contextmanager
def _error_after(seconds: float) -> Iterator[None]:
    thread, lock = threading.get_ident(), threading.Lock()
    ended = late = False

    def set_error() -> None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread), ctypes.py_object(_LateError)
        )

    def end() -> None:
        nonlocal late
        with lock:
            if not ended:
                late = True
                set_error()

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with lock:
            ended = True
        timer.cancel()
        if late:
            # The error may not have come yet, so let it come (once more) here. Taking it back would
            # leave a flag that an error waits: Python 3.11 then begins no function that is traced.
            with suppress(_LateError):
                set_error()
                while True:
                    pass


@contextmanager
def _memory_limit(room: int) -> Iterator[None]:
    """Let the process take so many more bytes while the block runs, where Linux says how many.

    Files that are mapped into memory do not count: other threads may read weights meanwhile.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    try:
        with open("/proc/self/statm", "rb", buffering=0) as status:  # noqa: PTH123
            pages = int(status.read().split()[5])  # for each template: a Path would take longer
    except OSError:
        pages = 0
    if soft != resource.RLIM_INFINITY or not pages:
        yield
        return
    resource.setrlimit(resource.RLIMIT_DATA, (pages * resource.getpagesize() + room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
