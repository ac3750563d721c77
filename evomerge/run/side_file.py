"""Writing the files of a run that nothing depends on: times, attempts, what workers do."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evomerge.errors import NO_ROOM

log = logging.getLogger(__name__)


class SideFile:
    """A file without which a search goes on.

    Attributes:
        path: the file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._is_lost = False

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Let the block write the file. If it cannot, this is a warning in the log, once.

        Raises:
            OSError: the disk is full.
        """
        try:
            yield
        except OSError as error:
            if error.errno in NO_ROOM:
                raise
            if not self._is_lost:
                self._is_lost = True
                log.warning("%s cannot be written: %s.", self.path, error.strerror)

    def append(self, line: str) -> None:
        """Append a line, which has its newline; see `writing`."""
        with self.writing(), self.path.open("a", encoding="utf-8") as file:
            file.write(line)
