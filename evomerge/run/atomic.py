"""A folder that appears complete or not at all, whatever happens to the process that writes it."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evomerge.errors import CheckpointError

_MARK = ".partial-"


@contextmanager
def appearing(out: Path) -> Iterator[Path]:
    """Yield an empty folder beside `out` that takes its name when the block ends well.

    Files are flushed to disk before the rename. Where the block raises, the folder is removed.
    Folders that killed writers left behind are removed first; a lock, which the system drops with
    its process, tells them from those of living ones.

    Raises:
        CheckpointError: `out` exists, or its parent folder cannot be written.
    """
    out = out.absolute()
    if out.exists() or out.is_symlink():
        raise CheckpointError(f"{out} exists already; name another folder or remove it.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(out)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}{_MARK}", dir=out.parent))
    except OSError as error:
        raise CheckpointError(f"{out.parent} cannot be written: {error.strerror}.") from error
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder.chmod(0o777 & ~_umask())
        yield folder
        for file in sorted(folder.rglob("*")):
            _sync(file)
        _sync(folder)
        _take_name(folder, out)
        _sync(out.parent)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def remove_abandoned(out: Path) -> None:
    """Remove the unfinished folders that killed writers of `out` left beside it."""
    for folder in out.parent.glob(f".{out.name}{_MARK}*"):
        try:
            lock = os.open(folder, os.O_RDONLY)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(lock)


def _take_name(folder: Path, out: Path) -> None:
    if out.exists():
        raise CheckpointError(f"{out} was made by someone else meanwhile; name another folder.")
    folder.rename(out)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
