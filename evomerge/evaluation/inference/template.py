"""Rendering chat templates, which come with a model: they may fail, loop for ever or fill memory.

Jinja's sandbox, in which transformers renders them, bounds neither time nor memory.
"""

from __future__ import annotations

import ctypes
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evomerge.errors import ConfigError, one_line

SECONDS = 20.0
"""Largest time for the prompt of one document; real templates take less than a millisecond."""

LONGEST = 20_000_000
"""Largest number of characters of a prompt."""

_ROOM = 4 << 30  # bytes that a template may take while it is rendered


class _LateError(BaseException):
    """Raised in the thread that renders for too long."""


def bounded(apply: Callable[..., str]) -> Callable[..., str]:
    """Return a function that renders chats, with limits on time and memory.

    Args:
        apply: what renders a chat, `HFLM.apply_chat_template`.

    Returns:
        A function with the same arguments, which raises a ConfigError if the template fails, or
        reaches a limit.
    """

    def render(*arguments: Any, **options: Any) -> str:
        try:
            with _memory_limit(_ROOM), _time_limit(SECONDS):
                text = apply(*arguments, **options)
        except _LateError:
            reason = f"it does not end within {SECONDS:g} s"
        except MemoryError:
            reason = "memory runs out"
        except Exception as error:  # a template may call raise_exception, or divide by zero
            reason = f"{type(error).__name__}: {one_line(error)}".rstrip(".")
        else:
            if len(text) <= LONGEST:
                return text
            reason = f"it makes a prompt of {len(text)} characters"
        raise ConfigError(
            f"The chat template of the host cannot be used ({reason}); correct it in the host's "
            "folder, or set evaluation.chat_template to false."
        )

    return render


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise a `_LateError` in this thread, between two steps of Python, if the block takes longer.

    A signal would do so in the main thread only.
    """
    thread, lock, ended = threading.get_ident(), threading.Lock(), False
    set_error = ctypes.pythonapi.PyThreadState_SetAsyncExc

    def end() -> None:
        with lock:
            if not ended:
                set_error(ctypes.c_ulong(thread), ctypes.py_object(_LateError))

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with lock:
            ended = True
        set_error(ctypes.c_ulong(thread), None)  # one that came too late
        timer.cancel()


@contextmanager
def _memory_limit(room: int) -> Iterator[None]:
    """Let the process take so many more bytes while the block runs, where Linux says how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    status = Path("/proc/self/statm")
    if soft != resource.RLIM_INFINITY or not status.exists():
        yield
        return
    taken = int(status.read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
