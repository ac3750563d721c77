"""Links and special files in folders that others have made.

A folder from elsewhere may have a link to a private file, which would be copied into a merge or
written to, or a pipe, which nobody ever writes to.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from evomerge.errors import InputError


def entries(folder: Path, error: type[InputError]) -> list[Path]:
    """Return what is in a folder, in alphabetical order; InputError: it cannot be read."""
    try:
        return sorted(folder.iterdir())
    except OSError as found:
        raise error(f"{folder} cannot be read: {found.strerror}.") from None


def check_inside(
    paths: Iterable[Path], folders: Iterable[Path], whose: str, error: type[InputError]
) -> None:
    """Raise an InputError if one of some files and folders is a link to somewhere else.

    `folders` are where they may really be; these paths have no links in them.
    """
    inside = list(folders)
    for path in paths:
        real = Path(os.path.realpath(path))  # Path.resolve raises for links in a circle
        if not any(real.is_relative_to(folder) for folder in inside):
            raise error(
                f"{path} is a link to {real}, which is outside of the folder of {whose}; remove "
                "the link, or copy what it links to to its place."
            )


def check_ordinary(paths: Iterable[Path], error: type[InputError]) -> None:
    """Raise an InputError if a path is neither a file nor a folder nor nothing.

    A pipe has no end, and a device is no data.
    """
    for path in paths:
        if is_special(path):
            raise error(
                f"{path} is a pipe, a socket or a device; put an ordinary file in its place."
            )


def is_special(path: Path) -> bool:
    """Return whether a path is a pipe, a socket or a device; False if nothing is there."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - Path's raises for names that are too long
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
