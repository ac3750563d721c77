"""Checks, before a long computation, that its result can be written where it is to go.

Permissions do not tell: root has all of them, and yet cannot write into /proc or a disk that is
mounted read-only. So something is written and removed again.
"""

from __future__ import annotations

import errno
import os
import secrets
from pathlib import Path

from evomerge.errors import CheckpointError, DiskError, InputError, RunFolderError, not_written
from evomerge.parsing.links import is_special


def why_not_writable(path: Path) -> str | None:
    """Return why a file or folder cannot be made, in words; None if it can.

    For a moment there is a hidden folder in its parent folder, or in the nearest one that exists.

    Args:
        path: the file or folder. If it exists, the question is whether it can be replaced.

    Raises:
        DiskError: the disk is full.
    """
    path = path.absolute()
    folder = path.parent
    try:
        while not folder.exists():
            folder = folder.parent
        if not folder.is_dir():
            return f"{folder} is not a folder"
        name = path.relative_to(folder).parts[0]
        probe = folder / f".{name}.partial-{secrets.token_hex(4)}"
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return "its name is too long"
        found = not_written(str(path), error, "name another place")
        if isinstance(found, DiskError):
            raise found from error
        return f"nothing can be written into {folder} ({error.strerror})"
    return None


def check_new_folder(out: Path, kind: str = "folder") -> None:
    """Check that a folder does not exist, and can be made; or a file, if that is the kind.

    Raises:
        CheckpointError: it exists, or cannot be made.
    """
    if os.path.lexists(out):
        raise CheckpointError(f"{out} exists already; name another {kind} or remove it.")
    reason = why_not_writable(out)
    if reason is not None:
        raise CheckpointError(f"{out} cannot be created: {reason}; name another {kind}.")


def check_run_folder(path: Path) -> None:
    """Check that the search of a run folder, or of one with stages, can go on there.

    Raises:
        RunFolderError: nothing can be written into it.
    """
    reason = why_not_writable(path / "lock")
    if reason is not None:
        raise RunFolderError(
            f"{path} cannot be continued: {reason}; make it writable, or continue a copy of it."
        )


def check_pictures(folder: Path) -> None:
    """Check that files can be written into a folder, which need not exist.

    Raises:
        InputError: they cannot.
    """
    reason = why_not_writable(folder / "picture.svg")
    if reason is not None:
        raise InputError(f"--pictures {folder} cannot be written: {reason}; give another folder.")


def check_output(path: Path, option: str) -> None:
    """Check that a file can be written; one that exists is replaced, a pipe is written to.

    Args:
        path: the file.
        option: the option that names it, for the message.

    Raises:
        InputError: it cannot be written.
    """
    # Path's own tests raise if a folder may not be entered.
    if os.path.isdir(path):  # noqa: PTH112
        raise InputError(f"{option} {path} cannot be written: it is a folder; give a file.")
    if is_special(path):
        return
    reason, parent = why_not_writable(path), path.absolute().parent
    if reason is None and not parent.exists():
        reason = f"there is no folder {parent}"
    if reason is not None:
        raise InputError(f"{option} {path} cannot be written: {reason}; give another file.")
