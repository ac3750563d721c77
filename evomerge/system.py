"""What differs between operating systems: locks, flushing of folders, forks.

What POSIX alone has is used here, or where `needs_posix` was called before; peak memory is in
device.py. The branches for Windows have never run there: this project is tested on Linux.
"""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from evomerge.errors import InputError

LOCKS_BESIDE = sys.platform == "win32"
"""Whether a lock is on a file beside what is locked: a lock of Windows keeps readers out, and a
folder cannot be locked there."""


def lock(path: Path, *, shared: bool = False, wait: bool = False, later: Path | None = None) -> int:
    """Lock a file or folder until the descriptor that is returned is closed, or the process ends.

    Readers of the file are not kept out.

    Args:
        path: a file or folder that is there.
        shared: whether several processes can have such a lock (on Windows only one).
        wait: whether to wait for another process that has the lock.
        later: the name that the folder will be given meanwhile, if it is renamed.

    Raises:
        FileNotFoundError: there is no such file or folder.
        BlockingIOError: another process has the lock (not with `wait`).
        OSError: the file system has no locks.
    """
    import portalocker

    if LOCKS_BESIDE:
        path.stat()
        descriptor = os.open(lock_file(later or path), os.O_RDWR | os.O_CREAT)
    else:
        descriptor = os.open(path, os.O_RDONLY)
    is_shared = shared and not LOCKS_BESIDE
    flags = portalocker.LockFlags.SHARED if is_shared else portalocker.LockFlags.EXCLUSIVE
    try:
        portalocker.lock(descriptor, flags if wait else flags | portalocker.LockFlags.NON_BLOCKING)
    except portalocker.AlreadyLocked as error:
        os.close(descriptor)
        raise BlockingIOError(f"{path} is locked by another process.") from error
    except portalocker.LockException as error:
        os.close(descriptor)
        raise OSError(f"{path} cannot be locked: {error}.") from error
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


_LOCK = ".evomerge-lock"


def lock_file(path: Path) -> Path:
    """Return the file beside a file or folder that carries its lock, where `LOCKS_BESIDE`."""
    return path.with_name(f"{path.name}{_LOCK}")


def is_lock_file(path: Path) -> bool:
    """Whether a file carries the lock of another one."""
    return path.name.endswith(_LOCK)


def unlock(path: Path, descriptor: int) -> None:
    """End a lock of `lock`, and remove its file beside a path that is gone."""
    os.close(descriptor)
    if LOCKS_BESIDE and not os.path.lexists(path):
        with suppress(OSError):  # another process has it open
            lock_file(path).unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Flush a file or folder to disk; Windows cannot flush folders."""
    if sys.platform == "win32" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def after_fork(function: Callable[[], None]) -> None:
    """Call a function in each child that is forked from now on; Windows has no forks."""
    if sys.platform != "win32":
        os.register_at_fork(after_in_child=function)


def needs_posix(what: str) -> None:
    """Raise an InputError on Windows; `what` begins its sentence."""
    if sys.platform == "win32":
        raise InputError(f"{what} needs Linux or macOS; on Windows, use WSL.")
