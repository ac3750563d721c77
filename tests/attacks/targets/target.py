"""A parser that is attacked, and the bounds in which it must end."""

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from draws import json_files, yaml_files
from hypothesis import strategies as st

LONGEST_CPU_SECONDS = 5  # they depend little on what else the machine does
LONGEST_SECONDS = 120  # for a parser that waits

Read = Callable[[bytes], Any]


@dataclass(frozen=True)
class Target:
    """A parser: files that it accepts, and bytes near these.

    `reader` returns a function that reads a file, given an empty folder to work in. It returns a
    value, which is None only if the file was refused, or raises an EvomergeError.
    """

    valid: tuple[bytes, ...]
    files: st.SearchStrategy[bytes]
    reader: Callable[[Path], Read]


def near_json(reader: Callable[[Path], Read], valid: Any) -> Target:
    """Return a parser that accepts a JSON file with this content."""
    return Target((json.dumps(valid).encode(),), json_files(valid), reader)


def near_yaml(reader: Callable[[Path], Read], *valid: Any) -> Target:
    """Return a parser that accepts YAML files with these contents."""
    files = st.one_of([yaml_files(item) for item in valid])
    return Target(tuple(json.dumps(item).encode() for item in valid), files, reader)


class TooLongError(BaseException):
    """A file took more time than it may; no parser catches this."""


@contextmanager
def bounded() -> Iterator[None]:
    """Raise TooLongError in the main thread if what is inside takes too long."""

    def end(number: int, frame: object) -> None:
        raise TooLongError(f"it took more than {LONGEST_CPU_SECONDS} s of CPU time")

    before = [signal.signal(number, end) for number in (signal.SIGPROF, signal.SIGALRM)]
    signal.setitimer(signal.ITIMER_PROF, LONGEST_CPU_SECONDS)
    signal.setitimer(signal.ITIMER_REAL, LONGEST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in zip((signal.SIGPROF, signal.SIGALRM), before, strict=True):
            signal.signal(number, handler)
