"""A parser that is attacked, and the bounds in which it must end."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis.strategies import SearchStrategy

LONGEST_CPU_SECONDS = 5
"""Most CPU seconds that a file may take; they depend little on what else the machine does."""

INDEX_CPU_SECONDS = 15
"""Most CPU seconds of lm-eval's index of its own tasks, where a file needs it once more."""

LONGEST_SECONDS = 120
"""Most seconds that a file may take, for a parser that waits."""

Read = Callable[[bytes], Any]


@dataclass(frozen=True)
class Target:
    """A parser.

    Attributes:
        valid: files that it accepts.
        files: bytes that are near valid files.
        reader: returns a function that reads a file, given an empty folder to work in. It returns
            a value, which is None only if the file was refused, or raises an EvomergeError.
        seconds: most CPU seconds that a file may take.
    """

    valid: tuple[bytes, ...]
    files: SearchStrategy[bytes]
    reader: Callable[[Path], Read]
    seconds: int = LONGEST_CPU_SECONDS


class TooLongError(BaseException):
    """A file took more time than it may; no parser catches this."""


@contextmanager
def bounded(seconds: int = LONGEST_CPU_SECONDS) -> Iterator[None]:
    """Raise TooLongError in the main thread if what is inside takes too long.

    Args:
        seconds: most CPU seconds.
    """

    def end(number: int, frame: object) -> None:
        raise TooLongError(f"it took more than {seconds} s of CPU time")

    before = [signal.signal(number, end) for number in (signal.SIGPROF, signal.SIGALRM)]
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, LONGEST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in zip((signal.SIGPROF, signal.SIGALRM), before, strict=True):
            signal.signal(number, handler)
