"""The journal: an append-only file of events that can be read after a kill at any byte.

Each line is one event: eight hexadecimal digits of CRC-32, a space, the event as JSON. The first
event is the header with the format version. A line is complete if it has a newline and the right
checksum. What follows the last complete line is a write that was cut off by a kill; the next writer
removes it. The journal has no clock times, so two runs of the same search write the same bytes.
Times are in `timings.jsonl`, on which nothing depends.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

from evomerge.errors import RunFolderError
from evomerge.parsing.texts import json_value
from evomerge.parsing.values import shown
from evomerge.run.flush import Flusher

FORMAT = 2
"""Version of the journal format."""

Event: TypeAlias = dict[str, Any]
"""One event as plain JSON; see `evomerge.run.events` for the fields of each kind."""


def encode(event: Mapping[str, Any]) -> bytes:
    """Return the line of an event, with its newline."""
    text = json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode()
    return b"%08x " % zlib.crc32(text) + text + b"\n"


def _is_whole(line: bytes) -> bool:
    """Return whether a line, given without its newline, has the right checksum."""
    return line[:9] == b"%08x " % zlib.crc32(line[9:])


def _event(line: bytes, where: str) -> Event:
    event = json_value(line[9:], where, RunFolderError)
    if not isinstance(event, dict):
        raise RunFolderError(f"{where} is not an event; restore the journal from a copy.")
    return event


def _scan(path: Path, position: int = 0, lines: int = 0) -> tuple[list[Event], int]:
    """Return the complete events from a byte position on, and the position where they end.

    Args:
        path: the file.
        position: where a line begins.
        lines: number of lines before that position, for error messages.
    """
    with path.open("rb") as file:
        file.seek(position)
        data = file.read()
    events: list[Event] = []
    begin = 0
    while (end := data.find(b"\n", begin)) >= 0:
        line, number = data[begin:end], lines + len(events) + 1
        if not _is_whole(line):
            if any(map(_is_whole, data[end + 1 :].split(b"\n")[:-1])):
                raise RunFolderError(
                    f"{path} is damaged: line {number} does not match its checksum but "
                    f"later lines do; restore it from a copy, or cut the file before that line."
                )
            break
        events.append(_event(line, f"{path}, line {number}"))
        begin = end + 1
    return events, position + begin


def read(path: Path) -> list[Event]:
    """Return the complete events of a journal. Another process may write to it meanwhile.

    Raises:
        RunFolderError: the file is missing, damaged in the middle, or of another format.
    """
    return Reader(path).new_events()


class Reader:
    """Reads a journal piece by piece, while another process may write to it.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = self._lines = 0

    def new_events(self) -> list[Event]:
        """Return the complete events that were written since the last call.

        Raises:
            RunFolderError: the file is missing, damaged in the middle, or of another format.
        """
        path = self._path
        try:
            events, end = _scan(path, self._position, self._lines)
        except FileNotFoundError as error:
            raise RunFolderError(
                f"{path.parent} has no {path.name}; it is not a run folder."
            ) from error
        except OSError as error:
            raise RunFolderError(f"{path} cannot be read: {error.strerror}.") from error
        if self._position == 0:
            _check_header(path, events)
        self._position, self._lines = end, self._lines + len(events)
        return events


def _check_header(path: Path, events: list[Event]) -> None:
    if events and events[0].get("format") != FORMAT:
        raise RunFolderError(
            f"{path} has journal format {shown(events[0].get('format'))}; this version of evomerge "
            f"reads format {FORMAT}."
        )


class Journal:
    """A journal that is open for writing.

    Attributes:
        path: the file.
        events: the events that it had when it was opened, the header included. Later ones are not
            kept in memory, where those of a long search would take more than a gigabyte.
    """

    def __init__(self, path: Path) -> None:
        """Open a journal, or create one with its header; remove an incomplete last line.

        Raises:
            RunFolderError: as for `read`.
        """
        self.path = path
        self.events: list[Event] = []
        end = 0
        if path.exists():
            self.events, end = _scan(path)
            _check_header(path, self.events)
        self._file = path.open("ab")
        if self._file.tell() > end:
            self._file.truncate(end)
        os.fsync(self._file.fileno())
        self._flusher = Flusher(self._file.fileno())
        if not self.events:
            self.events.append({"event": "header", "format": FORMAT})
            self.append(self.events[0])

    def append(self, event: Event) -> None:
        """Write an event.

        A kill of this process does not lose it. A power cut does, before the disk has it: this
        takes some milliseconds, for which nobody waits. What a power cut leaves is a journal up to
        some event, so the search goes on from there.

        Raises:
            OSError: it cannot be written, or an earlier event could not be flushed to disk.
        """
        self._file.write(encode(event))
        self._file.flush()
        self._flusher.note()

    def close(self) -> None:
        """Flush all events to disk and close the file.

        Raises:
            OSError: they could not be flushed.
        """
        if self._file.closed:
            return
        try:
            self._flusher.close()
        finally:
            self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
