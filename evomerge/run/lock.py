"""The lock of a run, which only one process at a time can hold: a lock on its journal.

It is on the journal itself, since a lock file could be removed, and then there would be two
writers; so the package filelock does not suit. The file `lock` beside it only has the number of the
process. The system releases the lock when the process ends. Other processes can find out whether it
is held: they take a shared lock for a moment, and a writer tries for a second before it gives up.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

import psutil

from evomerge.errors import NO_ROOM, RunFolderError

_TRIES, _PAUSE = 50, 0.02  # seconds

_held: set[int] = set()
"""File descriptors of the locked files of this process."""


def open_locked(path: Path) -> int:
    """Open a journal for reading and appending, or create it; lock it; return its descriptor.

    RunFolderError: the lock is held. OSError: it cannot be opened, or the disk is full.
    """
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        _held.add(handle)
        try:
            if not _take(handle):
                raise RunFolderError(
                    f"{path.parent} is being written by {_owner(path.parent)}; wait until it ends, "
                    "or stop it first."
                )
            if is_at(handle, path):
                _note_owner(path.parent / "lock")
                return handle
        except BaseException:
            close_locked(handle)
            raise
        close_locked(handle)  # the file was replaced before it was locked: try again


def close_locked(handle: int) -> None:
    """Close a file that `open_locked` has opened; in a fork of that process, nothing is done."""
    if handle in _held:
        _held.remove(handle)
        os.close(handle)


def is_at(handle: int, path: Path, size: int | None = None) -> bool:
    """Return whether an open file still has this path, and this number of bytes if it is given."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(handle)) and size in (None, found.st_size)


def is_held(path: Path) -> bool:
    """Return whether a process holds the lock of a journal now."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _take(handle: int) -> bool:
    """Try to lock an open file, and return whether it is locked now."""
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(_PAUSE)
        with suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    return False


def _note_owner(file: Path) -> None:
    """Write the number of this process; only a full disk is an error, since nothing needs it."""
    try:
        file.write_text(f"{os.getpid()}\n", encoding="utf-8")
    except OSError as error:
        if error.errno in NO_ROOM:
            raise


def _owner(folder: Path) -> str:
    """Return `process NUMBER`, or `another process` if no running process is known."""
    try:
        number = int((folder / "lock").read_text(encoding="utf-8"))
        return f"process {number}" if psutil.pid_exists(number) else "another process"
    except (OSError, ValueError, OverflowError):  # no process can have a number of 30 digits
        return "another process"


def _detach_copies() -> None:
    """Detach a forked child from the locked files, so that the locks end with the parent process.

    The descriptors stay open, so that no other file of the child gets their numbers.
    """
    if not _held:
        return
    nowhere = os.open(os.devnull, os.O_RDWR)
    for handle in _held:
        with suppress(OSError):
            os.dup2(nowhere, handle, inheritable=False)
    os.close(nowhere)
    _held.clear()


os.register_at_fork(after_in_child=_detach_copies)
