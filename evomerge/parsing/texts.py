"""Files of users and strangers: texts and JSON that cannot be read, links out of a folder, pipes.

A folder from elsewhere may have a link to a private file, which would be copied into a merge or
written to.
"""

import json
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from evomerge.errors import InputError, one_line

DEEPEST = 64
"""Largest nesting depth of lists and mappings in a file. Real files have a depth of up to 10."""

_GIVEN = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")
"""Where a shell puts what it was told to give as a file (`<(command)`)."""

_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def read_text(file: Path, error: type[InputError], missing: str | None = None) -> str:
    """Return the text of a UTF-8 file; InputError: it is none, or cannot be read.

    `missing` is the error's sentence if the file does not exist; None for a general one.
    """
    if not str(file).startswith(_GIVEN):
        check_ordinary([file], error)
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        why = missing or f"{file} does not exist; give the path of a file that does."
    except IsADirectoryError:
        why = f"{file} is a folder; give a file in it."
    except OSError as found:
        why = f"{file} cannot be read: {found.strerror}; give a file that you may read."
    except UnicodeDecodeError as found:
        why = f"{file} cannot be read: byte {found.start} is not UTF-8 text; save it as UTF-8."
    raise error(why)


def json_value(text: str | bytes, what: str, error: type[InputError]) -> Any:
    """Return the value of a JSON text.

    InputError: it is not JSON, is nested more than `DEEPEST` deep, or has an unpaired surrogate,
    which cannot be written to a file.
    """
    try:
        text = text.decode() if isinstance(text, bytes) else text
        value = json.loads(text)
        # Each level has an opening bracket. Most texts have so few that their levels need no count.
        if text.count("[") + text.count("{") > DEEPEST and _is_deep(value, DEEPEST):
            raise RecursionError
        if _HALF.search(text):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except RecursionError:
        why = f"has lists or mappings nested more than {DEEPEST} deep"
    except UnicodeEncodeError:
        why = "has an unpaired surrogate (half of a \\u pair), which is not valid text,"
    except ValueError as found:
        why = f"cannot be read as JSON ({one_line(found)})"
    raise error(f"{what} {why} and is damaged; correct it, or fetch the file again.")


def _is_deep(value: Any, left: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value
    return left == 0 or any(
        _is_deep(item, left - 1) for item in inner if isinstance(item, (dict, list))
    )


def entries(folder: Path, error: type[InputError]) -> list[Path]:
    """Return what is in a folder, in alphabetical order; InputError: it cannot be read."""
    try:
        return sorted(folder.iterdir())
    except OSError as found:
        raise error(f"{folder} cannot be read: {found.strerror}.") from None


def check_inside(
    paths: Iterable[Path], folders: Iterable[Path], whose: str, error: type[InputError]
) -> None:
    """Raise an InputError if a path is a link out of all `folders`, whose paths have no links."""
    inside = list(folders)
    for path in paths:
        real = Path(os.path.realpath(path))  # Path.resolve raises for links in a circle
        if not any(real.is_relative_to(folder) for folder in inside):
            raise error(
                f"{path} is a link to {real}, which is outside of the folder of {whose}; remove it."
            )


def check_ordinary(paths: Iterable[Path], error: type[InputError]) -> None:
    """Raise an InputError if a path is a pipe, which may have no end, a socket or a device."""
    for path in paths:
        if is_special(path):
            raise error(
                f"{path} is a pipe, a socket or a device; put an ordinary file in its place."
            )


def is_special(path: Path) -> bool:
    """Whether a path is a pipe, a socket or a device; False if nothing is there."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - Path's raises for names that are too long
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
