"""The lock of a run, which only one process at a time can hold: a lock on its journal.

It is on the journal itself, since a lock file could be removed, and then there would be two
writers. The file `lock` beside it only has the number of the process. The system releases the lock
when the process ends. Other processes can find out whether it is held.

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
from contextlib import suppress
from pathlib import Path

import psutil

from evomerge.errors import NO_ROOM, RunFolderError

OWNER = "lock"
"""Name of the file with the number of the process that writes to a run."""

HAS_OFD_LOCKS = hasattr(fcntl, "F_OFD_GETLK")
"""Whether Python has open file description locks on this system."""

_FLOCK = "hhqqi"
"""Format of C's `struct flock` on Linux: type, whence, start, length (0: to the end), process."""

_TRIES, _PAUSE = 50, 0.02  # seconds

_BYTE = 1 << 62
"""The byte that is locked. There are file systems where nobody can read what is locked."""

_held: set[int] = set()
"""File descriptors of the locked files of this process."""


def open_locked(path: Path) -> int:
    """Open a file for reading and appending, and lock it; `close_locked` ends that.

    Args:
        path: the journal of a run; it is created if it does not exist.

    Returns:
        its file descriptor.

    Raises:
        RunFolderError: the lock is held already.
        OSError: the file cannot be opened, or the disk is full.
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
                _note_owner(path.parent / OWNER)
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
    """Return whether an open file is still the one that has this path.

    Args:
        handle: file descriptor.
        path: the path.
        size: number of bytes that the file must have; None: any.
    """
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
    """Return a `struct flock` for a byte far behind the end of any journal.

    Args:
        kind: `F_WRLCK`, `F_RDLCK` or `F_UNLCK`.
    """
    return struct.pack(_FLOCK, kind, os.SEEK_SET, _BYTE, 1, 0)


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
        with (folder / OWNER).open(encoding="utf-8", errors="replace") as file:
            text = file.read(32).strip()
    except OSError:
        text = ""
    try:
        alive = text.isascii() and text.isdigit() and psutil.pid_exists(int(text))
    except OverflowError:  # no process can have this number
        alive = False
    return f"process {text}" if alive else "another process"


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
