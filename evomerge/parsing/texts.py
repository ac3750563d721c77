"""Reading text files and JSON, with an error of one sentence if they cannot be read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from evomerge.errors import InputError, one_line
from evomerge.parsing.links import check_ordinary

DEEPEST = 64
"""Largest nesting depth of lists and mappings in a file. Real files have a depth of up to 10."""

_GIVEN = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")
"""Where a shell puts what it was told to give as a file (`<(command)`)."""

_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def read_text(file: Path, error: type[InputError], missing: str | None = None) -> str:
    """Return the text of a UTF-8 file.

    `missing` is the error's sentence if the file does not exist; None for a general one.

    Raises:
        InputError: the file cannot be read, is no ordinary file, or is not UTF-8.
    """
    if not str(file).startswith(_GIVEN):
        check_ordinary([file], error)
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise error(
            missing or f"{file} does not exist; give the path of a file that does."
        ) from None
    except IsADirectoryError:
        raise error(f"{file} is a folder; give a file in it.") from None
    except OSError as found:
        raise error(
            f"{file} cannot be read: {found.strerror}; give a file that you may read."
        ) from None
    except UnicodeDecodeError as found:
        raise error(
            f"{file} cannot be read: byte {found.start} is not UTF-8 text; save the file as UTF-8, "
            "or copy it again."
        ) from None


def json_value(text: str | bytes, what: str, error: type[InputError]) -> Any:
    """Return the value of a JSON text.

    Raises:
        InputError: the text is not JSON, lists and mappings are nested more than `DEEPEST` deep, or
            a string has an unpaired surrogate, which cannot be written to a file.
    """
    try:
        text = text.decode() if isinstance(text, bytes) else text
        value = json.loads(text)
        # Each level has an opening bracket. Most texts have so few that their levels need no count.
        if text.count("[") + text.count("{") > DEEPEST and _is_deep(value, DEEPEST):
            raise RecursionError
        if _HALF.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise error(
            f"{what} has lists or mappings nested more than {DEEPEST} deep; it is damaged."
        ) from None
    except UnicodeEncodeError:
        raise error(
            f"{what} has an unpaired surrogate (half of a \\u pair), which is not valid text."
        ) from None
    except ValueError as found:
        raise error(
            f"{what} cannot be read as JSON and is damaged ({one_line(found)}); copy or download "
            "the file again."
        ) from None
    return value


def _is_deep(value: Any, left: int) -> bool:
    """Whether the lists and mappings in a list or mapping are nested more than `left` deep."""
    inner = value.values() if isinstance(value, dict) else value
    return left == 0 or any(
        _is_deep(item, left - 1) for item in inner if isinstance(item, (dict, list))
    )
