"""Temporary folders that do not stay behind if their process is killed.

Their names are `.evomerge.partial-XXXXXXXX`. As for other unfinished folders, the process holds a
lock on each of them, and the next one that makes such a folder removes those without a lock.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from pathlib import Path
from types import TracebackType

from evomerge.run.atomic import begin, remove


class TemporaryFolder:
    """A new folder that is removed by `close`, at the latest when the process ends.

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
        self._end = weakref.finalize(self, _end, self.path, lock, os.getpid())

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


def _end(path: Path, lock: int, owner: int) -> None:
    if os.getpid() == owner:  # a fork of the process ends earlier
        remove(path)
        os.close(lock)
