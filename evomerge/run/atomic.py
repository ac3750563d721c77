"""Writing files and folders that appear complete or not at all, even if the writer is killed.

A file or folder is first written under the hidden name `.NAME.partial-XXXXXXXX` in the same folder,
and is renamed when it is complete. Meanwhile its writer holds a lock on it. The system releases the
lock when the process ends. So the next writer recognises what a killed writer has left, and removes
it.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import secrets
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from evomerge.errors import CheckpointError, not_written
from evomerge.run.writable import check_new_folder

MARK = ".partial-"
"""Part of the hidden names of unfinished files and folders."""


@contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder that is renamed to `out` when the block ends.

    Its files are flushed to disk before. If the block raises, the folder is removed.

    Raises:
        CheckpointError: `out` exists, or its parent folder cannot be written.
        DiskError: the disk is full.
    """
    out = out.absolute()
    check_new_folder(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder, lock = begin(out, folder=True)
    except OSError as error:
        fix = "name another folder"
        raise not_written(str(out.parent), error, fix, CheckpointError) from error
    try:
        with _cleaned_up(folder, lock):
            yield folder
            _sync_tree(folder)
            if out.exists():
                raise FileExistsError(errno.EEXIST, "created by another process")
            folder.rename(out)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY) and out.exists():
            raise CheckpointError(
                f"{out} was created by another process in the meantime; name another folder."
            ) from error
        raise
    _sync(out.parent)


def create_folder(path: Path, texts: Mapping[str, str]) -> None:
    """Create a folder with its files in one step. An empty folder of this name is replaced.

    Args:
        path: the folder; if it is a symbolic link, the folder is made where the link points to.
        texts: content of the files by name.

    Raises:
        OSError: the folder cannot be written, or exists and is not empty.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    folder, lock = begin(path, folder=True)
    with _cleaned_up(folder, lock):
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        _sync_tree(folder)
        folder.rename(path)
    _sync(path.parent)


def replace_text(path: Path, text: str) -> None:
    """Write a file so that it has the old text or the new text at any time, never a part.

    If the path is a symbolic link, the file that it points to is replaced. If it is not a file but,
    for example, a pipe or `/dev/stdout`, the text is written to it.

    Raises:
        OSError: the file cannot be written.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        path.write_text(text, encoding="utf-8")
        return
    replace_bytes(Path(os.path.realpath(path)), text.encode())


def replace_bytes(path: Path, content: bytes) -> None:
    """Write a file so that it has the old content or the new content at any time, never a part.

    Raises:
        OSError: the file cannot be written.
    """
    partial, lock = begin(path, folder=False)
    with _cleaned_up(partial, lock):
        with open(lock, "wb", closefd=False) as file:
            file.write(content)
        os.fsync(lock)
        partial.replace(path)
    _sync(path.parent)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield an empty file that is renamed to `path` when the block ends; flushed to disk before.

    If the block raises, the file is removed.

    Raises:
        OSError: the file cannot be written.
    """
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, lock = begin(path, folder=False)
    with _cleaned_up(partial, lock):
        yield partial
        partial.chmod(os.fstat(lock).st_mode)  # a library may have put another file in its place
        _sync(partial)
        partial.replace(path)
    _sync(path.parent)


def remove_abandoned(folder: Path, name: str | None = None) -> None:
    """Remove the unfinished files and folders of killed writers from a folder.

    Those of running writers are kept.

    Args:
        folder: the folder.
        name: final name of the file or folder; None: any name.
    """
    for partial in folder.glob(f".{'*' if name is None else glob.escape(name)}{MARK}*"):
        try:
            lock = os.open(partial, os.O_RDONLY)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove(partial)
        except OSError:
            pass  # its writer is running, or this process may not remove it
        finally:
            os.close(lock)


def begin(path: Path, *, folder: bool, mode: int = 0o777) -> tuple[Path, int]:
    """Create an empty file or folder with a hidden name beside `path`.

    Args:
        path: the final path.
        folder: whether it is a folder.
        mode: permissions of a folder, less those that the umask takes.

    Returns:
        its path, and an open file descriptor that locks it.
    """
    remove_abandoned(path.parent, path.name)
    while True:
        partial = path.with_name(f".{path.name}{MARK}{secrets.token_hex(4)}")
        if folder:
            partial.mkdir(mode)
        flags = os.O_RDONLY if folder else os.O_RDWR | os.O_CREAT | os.O_EXCL
        try:
            lock = os.open(partial, flags, 0o666)
        except FileNotFoundError:
            if folder and partial.parent.is_dir():
                continue  # another process took it for abandoned and removed it: try again
            raise
        with suppress(OSError):  # a file system without locks, where nothing is ever removed
            fcntl.flock(lock, fcntl.LOCK_EX)
        if partial.exists():
            return partial, lock
        os.close(lock)  # another process removed it before it was locked: try again


@contextmanager
def _cleaned_up(partial: Path, lock: int) -> Iterator[None]:
    """Remove the unfinished file or folder if the block raises; release the lock."""
    try:
        yield
    except BaseException:
        remove(partial)
        raise
    finally:
        os.close(lock)


def remove(partial: Path) -> None:
    """Remove an unfinished file or folder, as far as this process may."""
    if partial.is_dir() and not partial.is_symlink():
        shutil.rmtree(partial, ignore_errors=True)
    else:
        partial.unlink(missing_ok=True)


def _sync_tree(folder: Path) -> None:
    """Flush a folder and all that it contains to disk."""
    for path in (*sorted(folder.rglob("*")), folder):
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class TemporaryFolder:
    """A new folder that is removed by `close`, at the latest when the process ends.

    If the process is killed, the next one that makes such a folder removes it.

    Args:
        parent: the folder that it is made in; None: the system's folder for temporary files.

    Attributes:
        path: the folder; only this user can read it.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, parent: Path | None = None) -> None:
        parent = Path(tempfile.gettempdir()) if parent is None else parent
        self.path, lock = begin(parent / "evomerge", folder=True, mode=0o700)
        self._end = weakref.finalize(self, _remove_own, self.path, lock, os.getpid())

    def close(self) -> None:
        """Remove the folder with all that is in it."""
        self._end()

    def __enter__(self) -> Path:
        return self.path

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _remove_own(path: Path, lock: int, owner: int) -> None:
    if os.getpid() == owner:  # a fork of the process ends earlier
        remove(path)
        os.close(lock)
