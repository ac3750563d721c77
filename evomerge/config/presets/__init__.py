"""Commented search files to start from, for `evomerge init`."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from evomerge.errors import InputError, not_written


def preset_text(name: str) -> str:
    """Return the text of a preset."""
    return Path(__file__).with_name(f"{name}.yaml").read_text(encoding="utf-8")


def check_new(target: Path) -> None:
    """Raise an InputError if a file exists."""
    if target.exists():
        raise InputError(f"{target} exists already; give another name.")


def write_new(target: Path, text: str) -> None:
    """Write a search file; InputError: it exists or cannot be written."""
    is_new = False
    try:
        with target.open("x", encoding="utf-8") as file:
            is_new = True
            file.write(text)
    except FileExistsError:
        check_new(target)
        raise
    except OSError as error:
        if is_new:
            with suppress(OSError):
                target.unlink()  # a half of it
        raise not_written(
            str(target), error, "give a name in a folder that you may write to"
        ) from error
