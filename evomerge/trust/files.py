"""Files with code: the digest by which a user allows one, and which ones this process may run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import cache_from_source
from pathlib import Path

from evomerge.errors import ConfigError

_allowed: dict[str, str] = {}
"""File -> digest of the content that this process may run."""


@dataclass(frozen=True)
class CodeFile:
    """A file whose code a search runs.

    Attributes:
        path: the file.
        digest: the SHA-256 digest of its bytes, in hexadecimal.
        imported: whether this program has imported it already, so that nobody needs to be asked.
    """

    path: Path
    digest: str
    imported: bool = False


class NotAllowedError(Exception):
    """A file was not allowed, or is no longer what was allowed. The text says which one."""


def read_code(path: Path, *, imported: bool = False) -> CodeFile:
    """Return a file with the digest of its content.

    Args:
        path: the file.
        imported: whether this program has imported it already.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return CodeFile(path.resolve(), _digest(path), imported)
    except OSError as error:
        raise ConfigError(
            f"{path} holds code of this search, but cannot be read: {error.strerror}; make it "
            "readable."
        ) from None


def allow(files: Iterable[CodeFile]) -> None:
    """Let this process run these files, as long as they have these digests.

    Compiled files that Python would run in their place (`__pycache__`) are removed: they may come
    from somewhere else, and Python writes them again from what was allowed.

    Raises:
        ConfigError: a compiled file cannot be removed.
    """
    for file in files:
        _allowed[str(file.path)] = file.digest
        if file.path.suffix == ".py" and not file.imported:
            compiled = Path(cache_from_source(str(file.path)))
            try:
                compiled.unlink(missing_ok=True)
            except NotADirectoryError:
                continue
            except OSError as error:
                raise ConfigError(
                    f"{compiled} would run in place of {file.path.name} and cannot be removed: "
                    f"{error.strerror}; remove it."
                ) from None


def allowed() -> Mapping[str, str]:
    """Return path -> digest of each file that this process may run."""
    return dict(_allowed)


def allow_again(files: Mapping[str, str]) -> None:
    """Let this process run what another one may run: the value of `allowed` there."""
    allow(CodeFile(Path(name), digest) for name, digest in files.items())


def check_allowed(path: Path) -> None:
    """Check that a file may run in this process, right before it does.

    Raises:
        NotAllowedError: it was not allowed, or it has changed.
    """
    path = path.resolve()
    if str(path) not in _allowed:
        raise NotAllowedError(f"{path} was not allowed to run")
    try:
        digest = _digest(path)
    except OSError as error:
        raise NotAllowedError(f"{path} cannot be read: {error.strerror}") from None
    if digest != _allowed[str(path)]:
        raise NotAllowedError(f"{path} has changed since it was allowed to run")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
