"""Where in a user's own code an exception was raised, and its traceback for a log."""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

from evomerge.errors import printable

_MOST_LINES = 200
"""Of a traceback; the last ones are kept."""


def raised_at(error: BaseException, function: Callable[..., Any]) -> str:
    """Return the file and line of the user's code that an exception came out of.

    It is the innermost line that is not in a library, or the innermost one if all are.

    Args:
        error: an exception that was raised and caught.
        function: the user's function; its file is the user's code, wherever it is installed.

    Returns:
        a text such as `judges.py, line 12`; empty if there is no line.
    """
    frames = list(traceback.walk_tb(error.__traceback__))
    own = getattr(getattr(function, "__code__", None), "co_filename", None)
    users = [item for item in frames if _is_users(item[0], own)] or frames
    if not users:
        return ""
    frame, line = users[-1]
    return f"{Path(frame.f_code.co_filename).name}, line {line}"


def _is_users(frame: FrameType, own: str | None) -> bool:
    file = frame.f_code.co_filename
    if file == own:
        return True
    return not file.startswith("<") and not any(file.startswith(top) for top in _libraries())


@cache
def _libraries() -> tuple[str, ...]:
    """Return the folders of Python's library, of installed packages, and of this one."""
    places = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return (*places, str(Path(__file__).resolve().parents[2]))


def traceback_lines(error: BaseException) -> str:
    """Return the traceback of an exception, and of those that it came from, for a log.

    Whatever its message holds, the text can be written to a file, and it is not long.
    """
    lines = "".join(traceback.format_exception(error)).splitlines()
    return "\n".join(map(printable, lines[-_MOST_LINES:]))
