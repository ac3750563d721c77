"""Commented search files to start from, for `evomerge init`."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from evomerge.errors import InputError, not_written


def write_preset(name: str, target: Path) -> None:
    """Write a preset to a new file; InputError: the file exists or cannot be written."""
    text = Path(__file__).with_name(f"{name}.yaml").read_text(encoding="utf-8")
    is_new = False
    try:
        with target.open("x", encoding="utf-8") as file:
            is_new = True
            file.write(text)
    except FileExistsError:
        raise InputError(f"{target} exists already; give another name.") from None
    except OSError as error:
        if is_new:
            with suppress(OSError):
                target.unlink()  # a half of it
        raise not_written(
            str(target), error, "give a name in a folder that you may write to"
        ) from error
