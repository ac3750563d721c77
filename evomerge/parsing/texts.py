"""Text of a file, and the plain values in JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from evomerge.errors import InputError, one_line

DEEPEST = 64
"""Lists and mappings inside of each other that a file may have; the deepest of ours has 10."""

_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def read_text(file: Path, error: type[InputError], missing: str | None = None) -> str:
    """Return the text of a UTF-8 file.

    Args:
        file: where it lies.
        error: what is raised.
        missing: the sentence for a file that does not exist.

    Raises:
        InputError: the file cannot be read, or is not UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise error(missing or f"{file} does not exist.") from None
    except OSError as found:
        raise error(f"{file} cannot be read: {found.strerror}.") from None
    except UnicodeDecodeError as found:
        raise error(
            f"{file} cannot be read: byte {found.start} is no UTF-8 text; save it as UTF-8, or "
            "copy it again."
        ) from None


def json_value(text: str | bytes, what: str, error: type[InputError]) -> Any:
    """Return what a JSON text holds.

    Args:
        text: bytes are taken as UTF-8.
        what: what an error calls the text.
        error: what is raised.

    Raises:
        InputError: it is not JSON, is nested more than `DEEPEST` deep, or holds half of a
            surrogate pair, which no file can be written with.
    """
    try:
        text = text.decode() if isinstance(text, bytes) else text
        value = json.loads(text)
    except RecursionError:
        raise _too_deep(what, error) from None
    except ValueError as found:
        raise error(
            f"{what} cannot be read as JSON and is damaged ({one_line(found)}); copy or download "
            "the file again."
        ) from None
    if _is_deep(value):
        raise _too_deep(what, error)
    if _HALF.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise error(f"{what} holds half of a surrogate pair, which is no text.") from None
    return value


def _too_deep(what: str, error: type[InputError]) -> InputError:
    return error(f"{what} holds lists or mappings more than {DEEPEST} deep; no such file is known.")


def _is_deep(value: Any) -> bool:
    """Return whether plain data is nested too deep; level by level, so that nothing recurses."""
    level = [value]
    for _ in range(DEEPEST + 1):
        level = [
            item
            for node in level
            if isinstance(node, (dict, list))
            for item in (node.values() if isinstance(node, dict) else node)
        ]
        if not level:
            return False
    return True
