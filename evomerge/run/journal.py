"""The journal: an append-only file of events that can be read after a kill at any byte.

Each line is one event; see `evomerge.run.lines`. A kill leaves at most one incomplete line, the
last one, without its newline. Readers leave it out and the next writer removes it. Anything else
that is not the next line is damage, which is refused until a person lets `truncate` cut it off. The
journal has no clock times, so two runs of the same search write the same bytes.
"""

from __future__ import annotations

import os
import shlex
import time
from pathlib import Path

from evomerge.errors import RunFolderError, SearchError
from evomerge.run.atomic import replace_bytes
from evomerge.run.history import History
from evomerge.run.lines import FORMAT, HEADER, Event, FormatError, JournalCodec, LineError
from evomerge.run.lock import close_locked, is_at, open_locked

BEST = "best.yaml"
"""The file beside a journal that has the best merge so far."""

FLUSH_INTERVAL = 1.0
"""Least number of seconds between two flushes to disk, so that fast candidates do not wait."""


def _scan(data: bytes, lines: JournalCodec, path: Path) -> tuple[list[Event], int, str | None]:
    """Return the events up to the first damaged line, the number of their bytes, its damage."""
    events: list[Event] = []
    begin = 0
    try:
        while (end := data.find(b"\n", begin)) >= 0:
            events.append(lines.decode(data[begin:end]))
            begin = end + 1
    except LineError as error:
        return events, begin, str(error)
    except FormatError as error:
        raise RunFolderError(
            f"{path} has journal format {error}, but this version of evomerge reads format "
            f"{FORMAT}; use the version of evomerge that wrote it."
        ) from None
    if not lines.may_be_torn(data[begin:]):
        return events, begin, "has no end and is not a line that was cut off"
    if not data:  # a kill before the first event leaves none of these files
        for name in (BEST, "front"):
            if path.with_name(name).exists():
                return [], 0, f"is missing, but {name} shows that candidates were scored"
    return events, begin, None


def _checked(data: bytes, lines: JournalCodec, path: Path) -> tuple[list[Event], int]:
    """Return the events of a journal that is not damaged, and the number of their bytes."""
    events, size, damage = _scan(data, lines, path)
    if damage is not None:
        raise RunFolderError(
            f"{path} is damaged: line {lines.count + 1} {damage}; restore it from a copy, or keep "
            "only what is before this line by `evomerge resume "
            f"{shlex.quote(str(path.parent))} --truncate`."
        )
    return events, size


def read(path: Path) -> list[Event]:
    """Return the complete events of a journal. Another process may write to it meanwhile.

    RunFolderError: the file is missing, damaged, or of another format.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise RunFolderError(
            f"{path.parent} has no {path.name}; it is not a run folder."
        ) from error
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read: {error.strerror}.") from error
    return _checked(data, JournalCodec(), path)[0]


class Journal:
    """A journal that is open for writing; meanwhile no other process can write to it.

    It is created with its header if it does not exist. `events` are those that it had when it was
    opened; later ones are not kept in memory, where those of a long search take gigabytes.

    Raises:
        RunFolderError: the file is damaged or of another format, or another process writes to it.
        OSError: it cannot be opened, or the disk is full.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines = JournalCodec()
        self._handle = open_locked(path)
        try:
            data = _read_all(self._handle)
            self.events, self._size = _checked(data, self._lines, path)
            if len(data) > self._size:
                os.ftruncate(self._handle, self._size)
            os.fsync(self._handle)
        except BaseException:
            close_locked(self._handle)
            raise
        self._flushed_at = 0.0
        self._is_open = True
        if not self.events:
            self.events.append(dict(HEADER))
            self.append(HEADER)

    def append(self, event: Event) -> None:
        """Write an event, which has no fields `n` and `after`.

        A kill of this process does not lose it; a power cut can, until the next flush to disk.

        Raises:
            OSError: it cannot be written, or not be flushed to disk.
            SearchError: another process has replaced, removed or changed the file.
        """
        if not is_at(self._handle, self.path, self._size):
            raise SearchError(
                f"{self.path} was replaced, removed or changed by another process, so this search "
                "has stopped; see that only one process writes to it, then go on with `evomerge "
                f"resume {shlex.quote(str(self.path.parent))}`."
            )
        line = memoryview(self._lines.encode(event))
        while line:
            written = os.write(self._handle, line)
            self._size += written
            line = line[written:]
        if time.monotonic() - self._flushed_at >= FLUSH_INTERVAL:
            os.fsync(self._handle)
            self._flushed_at = time.monotonic()

    def close(self) -> None:
        """Flush all events to disk and close the file; OSError: they could not be flushed."""
        if not self._is_open:
            return
        self._is_open = False
        close_locked(self._handle)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _read_all(handle: int) -> bytes:
    with open(handle, "rb", closefd=False) as file:
        file.seek(0)
        return file.read()


def truncate(path: Path) -> str | None:
    """Cut a journal before the first line that is damaged or that cannot follow those before it.

    It is kept as it was as `journal.jsonl.damaged-N`; if it was emptied, `best.yaml` is kept in the
    same way. Returns what was cut, in words; None if the journal is not damaged.
    RunFolderError: it cannot be cut.
    """
    handle = open_locked(path)
    try:
        data = _read_all(handle)
        events, _, damage = _scan(data, JournalCodec(), path)
        good = _count_that_follow(events)
        if damage is None and good == len(events):
            return None
        best = path.with_name(BEST)
        lost = best if not data and best.is_file() else path
        number = 1
        while (kept := lost.with_name(f"{lost.name}.damaged-{number}")).exists():
            number += 1
        replace_bytes(kept, lost.read_bytes())
        size = sum(len(line) + 1 for line in data.split(b"\n")[:good])
        os.ftruncate(handle, size)
        if not size:  # a journal of 0 bytes would be one that has lost everything
            os.write(handle, JournalCodec().encode(HEADER))
        os.fsync(handle)
        if not data:
            return f"the journal was empty, so the search begins anew; {kept} is kept"
        count = data.count(b"\n", size) + (not data.endswith(b"\n"))
        dropped = "1 event was dropped" if count == 1 else f"{count} events were dropped"
        return f"the journal was cut before line {good + 1}: {dropped}, and {kept} has them"
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
