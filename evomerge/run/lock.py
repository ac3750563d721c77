"""One writer a run: a lock that dies with its process, and that a reader can ask about.

On Linux it is a lock of an open file (`F_OFD_SETLK`), not one by `flock`: whether it is held can be
asked without taking it, so a reader never stands in the way of a writer. It does not end when the
process opens and closes the file elsewhere, as a lock by `lockf` does. Where Python knows no such
locks (macOS) it is one by `flock`: there a reader takes a shared lock for an instant, and a writer
tries again for a second before it gives up.
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

CAN_ASK = hasattr(fcntl, "F_OFD_GETLK")
"""Whether this system tells who holds a lock without taking it."""

_FLOCK = "hhqqi"
"""C's `struct flock` of Linux: type, whence, start, length (0: to the end), process."""

_TRIES, _PAUSE = 50, 0.02  # seconds

_held: set[int] = set()


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file `path` while the block runs; a kill releases it.

    Raises:
        RunFolderError: another process holds it.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    _held.add(handle)
    try:
        if not _take(handle):
            raise RunFolderError(
                f"{path.parent} is being written by {_owner(handle)}; wait for it, or stop it "
                "first."
            )
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        if handle in _held:
            _held.remove(handle)
            os.close(handle)


def is_held(path: Path) -> bool:
    """Return whether some process holds the lock now."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        if CAN_ASK:
            found = fcntl.fcntl(handle, fcntl.F_OFD_GETLK, _record(fcntl.F_WRLCK))
            return bool(struct.unpack(_FLOCK, found)[0] != fcntl.F_UNLCK)
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _take(handle: int) -> bool:
    """Lock an open file and return whether that worked."""
    for attempt in range(1 if CAN_ASK else _TRIES):
        if attempt:
            time.sleep(_PAUSE)
        try:
            if CAN_ASK:
                fcntl.fcntl(handle, fcntl.F_OFD_SETLK, _record(fcntl.F_WRLCK))
            else:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except (BlockingIOError, PermissionError):  # EAGAIN or EACCES: another process has it
            continue
    return False


def _record(kind: int) -> bytes:
    return struct.pack(_FLOCK, kind, os.SEEK_SET, 0, 0, 0)


def _owner(handle: int) -> str:
    """Return who holds the lock, as far as its file tells: a process that is gone is not named."""
    text = os.pread(handle, 32, 0).decode(errors="replace").strip()
    alive = text.isascii() and text.isdigit() and psutil.pid_exists(int(text))
    return f"process {text}" if alive else "another process"


def _let_go() -> None:
    """Close a forked child's copies: the lock must not outlive the process that took it."""
    for handle in _held:
        with suppress(OSError):
            os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
