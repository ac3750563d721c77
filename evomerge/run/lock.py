"""The lock of a run folder, which only one process at a time can hold.

The system releases the lock when the process ends. Other processes can find out whether it is held.

On Linux the lock is an open file description lock (`F_OFD_SETLK`). With `flock`, a process would
have to take the lock to find out whether it is held, and could keep a writer from taking it. With
`lockf`, the lock would end as soon as the same process opens and closes the file elsewhere. Where
Python has no open file description locks (macOS), the lock is taken by `flock`. There, a reader
holds a shared lock for a moment, and a writer tries for a second before it gives up.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from evomerge.errors import RunFolderError

HAS_OFD_LOCKS = hasattr(fcntl, "F_OFD_GETLK")
"""Whether Python has open file description locks on this system."""

_FLOCK = "hhqqi"
"""Format of C's `struct flock` on Linux: type, whence, start, length (0: to the end), process."""

_TRIES, _PAUSE = 50, 0.02  # seconds

_held: set[int] = set()
"""File descriptors of the locks that this process holds."""


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock while the block runs.

    Args:
        path: the lock file of a run folder; it is created if it does not exist.

    Raises:
        RunFolderError: the lock is held already.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    _held.add(handle)
    try:
        if not _take(handle):
            raise RunFolderError(
                f"{path.parent} is being written by {_owner(handle)}; wait until it ends, or stop "
                "it first."
            )
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        if handle in _held:
            _held.remove(handle)
            os.close(handle)


def is_held(path: Path) -> bool:
    """Return whether a process holds the lock now."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        if HAS_OFD_LOCKS:
            found = fcntl.fcntl(handle, fcntl.F_OFD_GETLK, _record(fcntl.F_WRLCK))
            return bool(struct.unpack(_FLOCK, found)[0] != fcntl.F_UNLCK)
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _take(handle: int) -> bool:
    """Try to lock an open file, and return whether it is locked now."""
    for attempt in range(1 if HAS_OFD_LOCKS else _TRIES):
        if attempt:
            time.sleep(_PAUSE)
        try:
            if HAS_OFD_LOCKS:
                fcntl.fcntl(handle, fcntl.F_OFD_SETLK, _record(fcntl.F_WRLCK))
            else:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except (BlockingIOError, PermissionError):  # EAGAIN or EACCES: the lock is held already
            continue
    return False


def _record(kind: int) -> bytes:
    """Return a `struct flock` for the whole file.

    Args:
        kind: `F_WRLCK`, `F_RDLCK` or `F_UNLCK`.
    """
    return struct.pack(_FLOCK, kind, os.SEEK_SET, 0, 0, 0)


def _owner(handle: int) -> str:
    """Return `process NUMBER`, or `another process` if the lock file names no running process."""
    text = os.pread(handle, 32, 0).decode(errors="replace").strip()
    alive = text.isascii() and text.isdigit() and psutil.pid_exists(int(text))
    return f"process {text}" if alive else "another process"


def _close_copies() -> None:
    """Close the copies of locks in a forked child, so that they end with the parent process."""
    for handle in _held:
        with suppress(OSError):
            os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_close_copies)
