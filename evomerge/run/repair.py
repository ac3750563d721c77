"""Cutting a damaged journal before its first bad line; the damaged file is kept beside it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from evomerge.errors import RunFolderError
from evomerge.run.atomic import replace_bytes
from evomerge.run.history import History
from evomerge.run.journal import BEST, is_emptied, read_all, scan
from evomerge.run.lines import HEADER, Event, JournalCodec
from evomerge.run.lock import close_locked, open_locked


@dataclass(frozen=True)
class Cut:
    """What was cut off a journal.

    Attributes:
        line: number of the first line that was cut off, from 1.
        lines: number of lines that were cut off; 0: the journal had been emptied.
        kept: the damaged journal as it was, or the best merge of one that had been emptied.
    """

    line: int
    lines: int
    kept: Path

    def __str__(self) -> str:
        """What happened, as a sentence."""
        if not self.lines:
            return f"the journal was empty, so the search begins anew; {self.kept} is kept"
        events = "1 event was dropped" if self.lines == 1 else f"{self.lines} events were dropped"
        return f"the journal was cut before line {self.line}: {events}, and {self.kept} has them"


def truncate(path: Path) -> Cut | None:
    """Cut a journal before the first line that is damaged or that cannot follow those before it.

    The journal as it was is kept as `journal.jsonl.damaged-N` in the same folder. One that was
    emptied gets its header again, and `best.yaml` is kept as `best.yaml.damaged-N`.

    Args:
        path: the journal of a run.

    Returns:
        what was cut off; None if the journal is not damaged.

    Raises:
        RunFolderError: another process writes to it, or it has a format that cannot be read.
        OSError: a file cannot be written, for example because the disk is full.
    """
    handle = open_locked(path)
    try:
        data = read_all(handle)
        found = scan(data, JournalCodec(), path)
        if is_emptied(path) is not None:
            best = path.with_name(BEST)
            lost = best if best.is_file() else path
            replace_bytes(kept := _free_name(lost), lost.read_bytes())
            os.write(handle, JournalCodec().encode(HEADER))
            os.fsync(handle)
            return Cut(1, 0, kept)
        good = _count_that_follow(found.events)
        if found.damage is None and good == len(found.events):
            return None
        kept = _free_name(path)
        replace_bytes(kept, data)
        size = sum(len(line) + 1 for line in data.split(b"\n")[:good])
        os.ftruncate(handle, size)
        if not size:  # a journal of 0 bytes would be one that has lost everything
            os.write(handle, JournalCodec().encode(HEADER))
        os.fsync(handle)
        rest = data[size:]
        return Cut(good + 1, rest.count(b"\n") + (not rest.endswith(b"\n")), kept)
    finally:
        close_locked(handle)


def _count_that_follow(events: list[Event]) -> int:
    """Return how many events can follow each other: a candidate has one outcome, for example."""
    history = History()
    for number, event in enumerate(events):
        try:
            history.apply(event)
        except RunFolderError:
            return number
    return len(events)


def _free_name(path: Path) -> Path:
    number = 1
    while (name := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    return name
