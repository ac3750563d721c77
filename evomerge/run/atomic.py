"""Files and folders that appear complete or not at all, whatever happens to who writes them.

What is being written stands beside its final place under a hidden name, `.NAME.partial-XXXXXXXX`,
and takes its name when it is complete. Its writer holds a lock on it. The system drops the lock
when the process ends, so the next writer can tell what a killed one left behind, and removes it.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from evomerge.errors import CheckpointError

_MARK = ".partial-"


@contextmanager
def appearing(out: Path) -> Iterator[Path]:
    """Yield an empty folder beside `out` that takes its name when the block ends well.

    Files are flushed to disk before the rename. Where the block raises, the folder is removed.

    Raises:
        CheckpointError: `out` exists, or its parent folder cannot be written.
    """
    out = out.absolute()
    if out.exists() or out.is_symlink():
        raise CheckpointError(f"{out} exists already; name another folder or remove it.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder, lock = _begin(out, folder=True)
    except OSError as error:
        raise CheckpointError(f"{out.parent} cannot be written: {error.strerror}.") from error
    try:
        with _finished(folder, lock):
            yield folder
            _sync_tree(folder)
            if out.exists():
                raise FileExistsError(errno.EEXIST, "made meanwhile")
            folder.rename(out)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY) and out.exists():
            raise CheckpointError(
                f"{out} was made by someone else meanwhile; name another folder."
            ) from error
        raise
    _sync(out.parent)


def create_whole(path: Path, texts: Mapping[str, str]) -> None:
    """Create a folder with its files, all at once; an empty folder of that name is replaced.

    Raises:
        OSError: the disk refuses, or the folder is there by now and holds something.
    """
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    folder, lock = _begin(path, folder=True)
    with _finished(folder, lock):
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        _sync_tree(folder)
        folder.rename(path)
    _sync(path.parent)


def replace_text(path: Path, text: str) -> None:
    """Write a file so that a reader, or a kill, sees the old text or the new, never a part.

    A symbolic link stays, and the file that it leads to is replaced. What is no file (a pipe,
    `/dev/stdout`) cannot be replaced and is simply written to.

    Raises:
        OSError: the disk refuses.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        path.write_text(text, encoding="utf-8")
        return
    path = Path(os.path.realpath(path))
    partial, lock = _begin(path, folder=False)
    with _finished(partial, lock):
        with open(lock, "w", encoding="utf-8", closefd=False) as file:
            file.write(text)
        os.fsync(lock)
        partial.replace(path)
    _sync(path.parent)


def remove_abandoned(folder: Path, name: str | None = None) -> None:
    """Remove what killed writers left in a folder; what a living one writes is left alone.

    Args:
        folder: where to look.
        name: of the file or folder that was being written; None for any.
    """
    for partial in folder.glob(f".{'*' if name is None else glob.escape(name)}{_MARK}*"):
        try:
            lock = os.open(partial, os.O_RDONLY)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(partial)
        except OSError:
            pass  # its writer is alive, or it cannot be removed by us
        finally:
            os.close(lock)


def _begin(path: Path, *, folder: bool) -> tuple[Path, int]:
    """Make an empty file or folder beside `path`; return it and an open handle that locks it."""
    remove_abandoned(path.parent, path.name)
    while True:
        partial = path.with_name(f".{path.name}{_MARK}{secrets.token_hex(4)}")
        if folder:
            partial.mkdir()
        flags = os.O_RDONLY if folder else os.O_RDWR | os.O_CREAT | os.O_EXCL
        try:
            lock = os.open(partial, flags, 0o666)
        except FileNotFoundError:
            if folder and partial.parent.is_dir():
                continue  # taken for abandoned and removed, between these two lines
            raise
        with suppress(OSError):  # a disk without locks: what a kill leaves there is never removed
            fcntl.flock(lock, fcntl.LOCK_EX)
        if partial.exists():
            return partial, lock
        os.close(lock)  # taken for abandoned and removed, before it was locked


@contextmanager
def _finished(partial: Path, lock: int) -> Iterator[None]:
    """Remove what is unfinished where the block raises; give the lock back."""
    try:
        yield
    except BaseException:
        _remove(partial)
        raise
    finally:
        os.close(lock)


def _remove(partial: Path) -> None:
    if partial.is_dir() and not partial.is_symlink():
        shutil.rmtree(partial, ignore_errors=True)
    else:
        partial.unlink(missing_ok=True)


def _sync_tree(folder: Path) -> None:
    for path in (*sorted(folder.rglob("*")), folder):
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
