"""Files and folders that appear complete or not at all, even if their writer is killed.

A file or folder is first written under the hidden name `.NAME.partial-XXXXXXXX` in the same folder,
and renamed when it is complete. Meanwhile its writer holds a lock on it, which the system releases
when the process ends. So the next writer recognises what a killed one has left, and removes it.

The `check_` functions tell before a long computation whether its result can be written. They try
it, since permissions do not tell: root has all of them, and yet cannot write into /proc.
"""

import glob
import os
import secrets
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from evomerge import system
from evomerge.errors import NO_ROOM, CheckpointError, DiskError, InputError, not_written
from evomerge.parsing.texts import is_special

MARK = ".partial-"
"""Part of the hidden names of unfinished files and folders."""

_REPLACED = ".evomerge-old-"
"""Part of the names of folders that are being replaced; none that a user would give to a copy."""


@contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder that is flushed and renamed to `out`, or removed if the block raises.

    CheckpointError: `out` exists. OSError: it cannot be written, or the disk is full.
    """
    out = out.absolute()
    check_new_folder(out)
    _make_parents(out)
    with _unfinished(out, folder=True) as folder:
        yield folder
        check_new_folder(out)  # another process may have created it meanwhile


def _make_parents(path: Path) -> None:
    """Make the folders above a path; `mkdir` would call itself for each of a thousand levels."""
    for folder in reversed(path.parents):
        folder.mkdir(exist_ok=True)


def create_folder(path: Path, texts: Mapping[str, str]) -> None:
    """Create a folder with its files (name -> text) in one step.

    An empty folder of this name is replaced; a symbolic link is followed.
    """
    path = Path(os.path.realpath(path))
    _make_parents(path)
    with _unfinished(path, folder=True) as folder:
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")


def replace_text(path: Path, text: str) -> None:
    """Write a file so that it has the old text or the new text at any time, never a part.

    A symbolic link is followed. What is not a file, such as a pipe or `/dev/stdout`, is written to.
    """
    if is_special(path):
        path.write_text(text, encoding="utf-8")
        return
    with _unfinished(Path(os.path.realpath(path)), folder=False) as partial:
        partial.write_bytes(text.encode())


def write_output(path: Path, text: str, option: str) -> None:
    """Write the file that the user has named with an option; InputError: it cannot be written."""
    try:
        replace_text(path, text)
    except OSError as error:
        raise not_written(f"{option} {path}", error, "give another file") from error


def replace_folder(new: Path, out: Path) -> None:
    """Put the folder `new`, of the same file system, in the place of the folder `out`.

    If this process is killed between the two renames, or before all of the old folder is removed,
    `end_replacement` does the rest.

    OSError: it cannot be renamed; `out` is as before.
    """
    old = out.with_name(f"{out.name}{_REPLACED}{secrets.token_hex(4)}")
    lock = None
    with suppress(OSError):  # a file system without locks, where nothing is ever removed
        lock = system.lock(out, later=old)
    try:
        out.rename(old)
        try:
            new.rename(out)
        except OSError:
            old.rename(out)
            raise
        _remove(old)
    finally:
        if lock is not None:
            system.unlock(old, lock)


def end_replacement(out: Path) -> None:
    """Give `out` back what was there before a `replace_folder` that was killed, or remove that.

    It comes back if nothing else is there now.
    """
    for old in out.parent.glob(f"{glob.escape(out.name)}{_REPLACED}*"):
        with suppress(OSError):  # its writer is running, or this process may not rename it
            lock = system.lock(old)
            try:
                if os.path.lexists(out):
                    _remove(old)
                else:
                    old.rename(out)
            finally:
                system.unlock(old, lock)


class TemporaryFolder:
    """A new folder for this user alone that is removed by `close()`, or when the process ends.

    If it is killed, the next one that makes such a folder in `parent` (by default, where the system
    has temporary files) removes it.
    """

    def __init__(self, parent: Path | None = None) -> None:
        parent = parent or Path(tempfile.gettempdir())
        self.path, lock = _begin(parent / "evomerge", folder=True, mode=0o700)
        self.close = weakref.finalize(self, _remove_own, self.path, lock, os.getpid())

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.close()


def _remove_own(path: Path, lock: int | None, owner: int) -> None:
    if os.getpid() == owner:  # a fork of the process ends earlier
        _remove(path)
        if lock is not None:
            system.unlock(path, lock)


@contextmanager
def _unfinished(path: Path, *, folder: bool) -> Iterator[Path]:
    """Yield an empty file or folder that is flushed and becomes `path` when the block ends."""
    partial, lock = _begin(path, folder=folder)
    try:
        yield partial
        for item in (*sorted(partial.rglob("*")), partial):
            system.flush(item)
        partial.replace(path)
    except BaseException:
        _remove(partial)
        raise
    finally:
        if lock is not None:
            system.unlock(partial, lock)
    system.flush(path.parent)


def _begin(path: Path, *, folder: bool, mode: int = 0o777) -> tuple[Path, int | None]:
    """Create an empty hidden file or folder beside `path`; return it, and what locks it.

    None: the file system has no locks, and nothing is ever removed there.
    """
    remove_abandoned(path.parent, path.name)
    while True:
        partial = path.with_name(f".{path.name}{MARK}{secrets.token_hex(4)}")
        if folder:
            partial.mkdir(mode)
        else:
            partial.touch(exist_ok=False)
        # If another process takes it for abandoned before it is locked, a new one is made.
        lock = None
        with suppress(OSError):
            lock = system.lock(partial, wait=True)
        if partial.exists():
            return partial, lock
        if lock is not None:
            system.unlock(partial, lock)


def remove_abandoned(folder: Path, name: str | None = None) -> None:
    """Remove what killed writers have left in a folder, of this final name or of any."""
    for partial in folder.glob(f".{'*' if name is None else glob.escape(name)}{MARK}*"):
        if system.is_lock_file(partial):
            continue
        with suppress(OSError):  # its writer is running, or this process may not remove it
            lock = system.lock(partial)
            try:
                _remove(partial)
            finally:
                system.unlock(partial, lock)


def _remove(partial: Path) -> None:
    if partial.is_dir():
        shutil.rmtree(partial, ignore_errors=True)
    else:
        partial.unlink(missing_ok=True)


def check_writable(path: Path, what: str, fix: str, error: type[InputError]) -> None:
    """Raise an InputError if a file or folder cannot be made or replaced; DiskError: it is full.

    `what` begins the error's sentence (`PATH cannot be created`), `fix` ends it.
    """
    path = path.absolute()
    folder = path.parent
    try:
        folder = next(parent for parent in path.parents if parent.exists())
        prefix = f".{path.relative_to(folder).parts[0]}{MARK}"
        # A writer may take it for what a killed one has left.
        with tempfile.TemporaryDirectory("", prefix, folder, ignore_cleanup_errors=True):
            pass
    except OSError as found:
        reason = f"nothing can be written into {folder} ({found.strerror})"
        kind = DiskError if found.errno in NO_ROOM else error
        raise kind(f"{what}: {reason}; {fix}.") from found


def check_new_folder(out: Path, fix: str = "name another folder or remove it") -> None:
    """Raise a CheckpointError if a folder exists, or cannot be made; `fix` ends its sentence."""
    if os.path.lexists(out):
        raise CheckpointError(f"{out} exists already; {fix}.")
    check_writable(out, f"{out} cannot be created", "name another folder", CheckpointError)
