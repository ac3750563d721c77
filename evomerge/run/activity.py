"""What the workers of a running search are doing: the file `workers.json`, which `status` shows."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, FiniteFloat, TypeAdapter, ValidationError

from evomerge.errors import printable
from evomerge.run.atomic import MARK

WORKERS = "workers.json"

INTERVAL = 1.0
"""Least number of seconds between two writes of `write_if_due`."""

_Text = Annotated[str, AfterValidator(lambda text: printable(text))]


@dataclass(frozen=True)
class WorkerState:
    """What one worker, on a device or a machine, does since a Unix time: start, score, be free."""

    number: int
    state: _Text
    place: _Text
    candidates: tuple[int, ...]
    split: _Text
    since: FiniteFloat


@dataclass
class _File:
    """The content of the file; `lost`: number of workers that were lost in this session."""

    workers: list[WorkerState]
    lost: int = 0


_FILE = TypeAdapter(_File)


class Activity:
    """Writes what each worker is doing to the file `workers.json`; to no file if it is None."""

    def __init__(self, path: Path | None) -> None:
        self._path, self._file = path, _File([])
        self._written_at, self._is_new = -INTERVAL, False

    def note(
        self,
        number: int,
        state: str,
        place: str = "",
        candidates: Sequence[int] = (),
        split: str = "",
    ) -> None:
        """Note what a worker begins to do; see `WorkerState`."""
        since = round(time.time(), 3)
        new = WorkerState(number, state, place, tuple(candidates), split, since)
        others = [item for item in self._file.workers if item.number != number]
        self._file.workers = sorted([*others, new], key=lambda item: item.number)
        self._is_new = True

    def note_loss(self) -> None:
        """Count a worker that was lost."""
        self._file.lost += 1
        self._is_new = True

    def write_if_due(self) -> float | None:
        """Write the file if something is new; return seconds to wait, None: nothing is left."""
        if self._path is None or not self._is_new:
            return None
        left = self._written_at + INTERVAL - time.monotonic()
        if left > 0:
            return left
        self.write()
        return None

    def write(self) -> None:
        """Write the file now."""
        if self._path is not None:
            # The next writer of the run removes a file of this name that a killed one has left.
            part = self._path.with_name(f".{self._path.name}{MARK}{os.getpid()}")
            part.write_bytes(_FILE.dump_json(self._file) + b"\n")
            part.replace(self._path)
            self._written_at, self._is_new = time.monotonic(), False

    def end(self) -> None:
        """Remove the file, since the workers have ended; one that a killed search has left too."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def read_activity(path: Path) -> tuple[list[WorkerState], int]:
    """Return what the workers are doing, and how many were lost; nothing if this is unknown."""
    try:
        found = _FILE.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return [], 0
    return found.workers, found.lost
