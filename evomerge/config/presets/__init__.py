"""Commented search files to start from, for `evomerge init`."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from evomerge.errors import InputError, not_written

_FIX = "give a name in a folder that you may write to"


def preset_text(name: str) -> str:
    """Return the text of a preset."""
    return Path(__file__).with_name(f"{name}.yaml").read_text(encoding="utf-8")


def check_new(target: Path) -> None:
    """Raise an InputError if a file exists, or has no folder."""
    if target.exists():
        raise InputError(f"{target} exists already; give another name.")
    if not target.absolute().parent.is_dir():
        raise InputError(f"{target} cannot be written: there is no {target.parent}; {_FIX}.")


def write_new(target: Path, text: str) -> None:
    """Write a search file; InputError: it exists or cannot be written."""
    check_new(target)
    is_new = False
    try:
        with target.open("x", encoding="utf-8") as file:
            is_new = True
            file.write(text)
    except OSError as error:
        if is_new:
            with suppress(OSError):
                target.unlink()  # a half of it
        raise not_written(str(target), error, _FIX) from error
