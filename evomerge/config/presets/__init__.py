"""Commented search files to start from, for `evomerge init`."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from evomerge.errors import InputError, did_you_mean, not_written

_HERE = Path(__file__).resolve().parent


def preset_names() -> tuple[str, ...]:
    """Return the names of the presets."""
    return tuple(sorted(path.stem for path in _HERE.glob("*.yaml")))


def write_preset(name: str, target: Path) -> None:
    """Write a preset to a new file.

    Raises:
        InputError: there is no such preset, or the file exists or cannot be written.
    """
    names = preset_names()
    if name not in names:
        raise InputError(
            f"--preset is {name!r}; allowed are {', '.join(names)}.{did_you_mean(name, names)}"
        )
    text = (_HERE / f"{name}.yaml").read_text(encoding="utf-8")
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
