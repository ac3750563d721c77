"""The lock of a run, which only one process at a time can hold: a lock on its journal.

It is on the journal itself, since a lock file could be removed, and then there would be two
writers; so the package filelock does not suit. The file `lock` beside it only has the number of the
process. The system releases the lock when the process ends.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

from evomerge.errors import RunInUseError

_TRIES, _PAUSE = 50, 0.02  # seconds

_held: set[int] = set()
"""File descriptors of the locked files of this process."""


def open_locked(path: Path) -> int:
    """Open a journal for reading and appending, or create it; lock it; return its descriptor.

    RunInUseError: the lock is held. OSError: it cannot be opened, or the disk is full.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    _held.add(handle)
    try:
        _take(handle, path.parent)
        (path.parent / "lock").write_text(f"{os.getpid()}\n", encoding="utf-8")
    except BaseException:
        close_locked(handle)
        raise
    return handle


def close_locked(handle: int) -> None:
    """Flush and close what `open_locked` has opened; in a fork of that process, nothing is done."""
    if handle in _held:
        _held.remove(handle)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def is_at(handle: int, path: Path, size: int) -> bool:
    """Return whether an open file still has this path, and this number of bytes."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(handle)) and size == found.st_size


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


def _take(handle: int, folder: Path) -> None:
    """Lock an open journal. It is tried for a second, since `is_held` has locks for a moment."""
    for _ in range(_TRIES):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(_PAUSE)
    try:
        owner = f"process {(folder / 'lock').read_text(encoding='utf-8').strip()}"
    except (OSError, ValueError):
        owner = "another process"
    raise RunInUseError(
        f"{folder} is being written by {owner}; wait until it ends, or stop it first."
    )


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
