"""Files with code, and the digest by which a user allows one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from evomerge.errors import ConfigError


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


def digest_of(data: bytes) -> str:
    """Return the digest by which the content of a file is allowed."""
    return hashlib.sha256(data).hexdigest()


def read_code(path: Path, *, imported: bool = False) -> CodeFile:
    """Return a file with the digest of its content.

    Args:
        path: the file.
        imported: whether this program has imported it already.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return CodeFile(path.resolve(), digest_of(path.read_bytes()), imported)
    except OSError as error:
        raise ConfigError(
            f"{path} holds code of this search, but cannot be read: {error.strerror}; make it "
            "readable."
        ) from None
