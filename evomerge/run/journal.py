"""The journal: an append-only file of events that can be read after a kill at any byte.

Each line is one event; see `evomerge.run.lines`. The first event is the header with the format
version. A kill leaves at most one incomplete line, the last one, without its newline. Readers leave
it out and the next writer removes it. Anything else that is not the next line is damage, which is
refused. The journal has no clock times, so two runs of the same search write the same bytes. Times
are in `timings.jsonl`, on which nothing depends.
"""

from __future__ import annotations

import copy
import os
import shlex
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from evomerge.errors import RunFolderError, SearchError
from evomerge.run.lines import FORMAT, HEADER, Event, FormatError, JournalCodec, LineError
from evomerge.run.lock import close_locked, is_at, open_locked

BEST = "best.yaml"
"""The file beside a journal that has the best merge so far."""


@dataclass(frozen=True)
class Scan:
    """What a part of a journal has.

    Attributes:
        events: the events of its complete lines, up to the first one that is damaged.
        size: number of bytes of these lines.
        damage: why the line after them is refused; None if there is none, or it is only cut off.
    """

    events: list[Event]
    size: int
    damage: str | None


def scan(data: bytes, lines: JournalCodec, path: Path) -> Scan:
    """Check the lines of a journal, or of its rest from some line on.

    Args:
        data: the bytes, which begin where a line begins.
        lines: has checked all lines before.
        path: the file, for error messages.

    Raises:
        RunFolderError: the journal has a format that this version does not read.
    """
    events: list[Event] = []
    begin = 0
    try:
        while (end := data.find(b"\n", begin)) >= 0:
            events.append(lines.decode(data[begin:end]))
            begin = end + 1
    except LineError as error:
        return Scan(events, begin, str(error))
    except FormatError as error:
        raise RunFolderError(
            f"{path} has journal format {error}, but this version of evomerge reads format "
            f"{FORMAT}; use the version of evomerge that wrote it."
        ) from None
    torn = lines.may_be_torn(data[begin:])
    return Scan(events, begin, None if torn else "has no end and is not a line that was cut off")


def is_emptied(path: Path) -> str | None:
    """Return the file by which a journal of 0 bytes had events; None: it is in order.

    A kill before the first event leaves none of these files.
    """
    if not path.is_file() or path.stat().st_size:
        return None
    return next((name for name in (BEST, "front") if path.with_name(name).exists()), None)


def check_not_emptied(path: Path) -> None:
    """Check that a journal was not emptied after candidates were scored.

    Raises:
        RunFolderError: it was.
    """
    sign = is_emptied(path)
    if sign is not None:
        command = f"evomerge resume {shlex.quote(str(path.parent))} --truncate"
        raise RunFolderError(
            f"{path} is empty, but {sign} shows that candidates were scored; restore it from a "
            f"copy, or begin the search anew by `{command}`."
        )


def read(path: Path) -> list[Event]:
    """Return the complete events of a journal. Another process may write to it meanwhile.

    Raises:
        RunFolderError: the file is missing, damaged, or of another format.
    """
    return Reader(path).new_events()


class Reader:
    """Reads a journal piece by piece, while another process may write to it.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0
        self._lines = JournalCodec()

    def new_events(self) -> list[Event]:
        """Return the complete events that were written since the last call.

        Raises:
            RunFolderError: the file is missing, damaged, or of another format.
        """
        path, lines = self._path, copy.copy(self._lines)
        found = scan(self._new_bytes(), lines, path)
        if found.damage is not None:
            raise damage_error(path, lines.count + 1, found.damage)
        self._position, self._lines = self._position + found.size, lines
        return found.events

    def _new_bytes(self) -> bytes:
        path = self._path
        try:
            with path.open("rb") as file:
                if file.seek(0, os.SEEK_END) < self._position:
                    raise RunFolderError(
                        f"{path} has become shorter while it was read; start this command again."
                    )
                file.seek(self._position)
                return file.read()
        except FileNotFoundError as error:
            raise RunFolderError(
                f"{path.parent} has no {path.name}; it is not a run folder."
            ) from error
        except OSError as error:
            raise RunFolderError(f"{path} cannot be read: {error.strerror}.") from error


def damage_error(path: Path, line: int, reason: str) -> RunFolderError:
    """Return the error for a journal with a damaged line.

    Args:
        path: the file.
        line: number of the first line that is damaged, from 1.
        reason: what is wrong with it, such as `does not match its checksum`.
    """
    return RunFolderError(
        f"{path} is damaged: line {line} {reason}; restore it from a copy, or keep only what is "
        f"before this line by `evomerge resume {shlex.quote(str(path.parent))} --truncate`."
    )


class Journal:
    """A journal that is open for writing; meanwhile no other process can write to it.

    Attributes:
        path: the file.
        events: the events that it had when it was opened, the header included. Later ones are not
            kept in memory, where those of a long search would take more than a gigabyte.
    """

    def __init__(self, path: Path) -> None:
        """Open a journal, or create one with its header; remove an incomplete last line.

        Raises:
            RunFolderError: the file is damaged or of another format, or another process writes to
                it.
            OSError: it cannot be opened, or the disk is full.
        """
        self.path = path
        self._lines = JournalCodec()
        self._handle = open_locked(path)
        try:
            data = read_all(self._handle)
            found = scan(data, self._lines, path)
            if found.damage is not None:
                raise damage_error(path, self._lines.count + 1, found.damage)
            if len(data) > found.size:
                os.ftruncate(self._handle, found.size)
            os.fsync(self._handle)
        except BaseException:
            close_locked(self._handle)
            raise
        self.events, self._size = found.events, found.size
        self._flusher = _Flusher(self._handle)
        self._is_open = True
        if not self.events:
            self.events.append(dict(HEADER))
            self.append(HEADER)

    def append(self, event: Event) -> None:
        """Write an event.

        A kill of this process does not lose it. A power cut does, before the disk has it: this
        takes some milliseconds, for which nobody waits. What a power cut leaves is a journal up to
        some event, so the search goes on from there.

        Args:
            event: the event; it has no fields `n` and `after`.

        Raises:
            OSError: it cannot be written, or an earlier event could not be flushed to disk.
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
        self._flusher.note()

    def close(self) -> None:
        """Flush all events to disk and close the file.

        Raises:
            OSError: they could not be flushed.
        """
        if not self._is_open:
            return
        self._is_open = False
        try:
            self._flusher.close()
        finally:
            close_locked(self._handle)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read_all(handle: int) -> bytes:
    """Return the whole content of an open file."""
    with open(handle, "rb", closefd=False) as file:
        file.seek(0)
        return file.read()


class _Flusher:
    """Flushes a file to disk again and again, as long as something is new.

    The disk takes a millisecond or twenty for each flush, and one flush serves all that was written
    before it. So the disk is never far behind, and the writer never waits.

    Args:
        file: descriptor of the file, open for writing; it must stay open until `close`.
    """

    def __init__(self, file: int) -> None:
        self._file = file
        self._is_new = threading.Event()
        self._is_closing = False
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="flush", daemon=True)
        self._thread.start()

    def note(self) -> None:
        """Note that something was written.

        Raises:
            OSError: an earlier flush failed.
        """
        if self._error is not None:
            raise self._error
        self._is_new.set()

    def close(self) -> None:
        """Flush what is left, and end.

        Raises:
            OSError: a flush failed.
        """
        self._is_closing = True
        self._is_new.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while self._error is None:
            self._is_new.wait()
            self._is_new.clear()
            is_last = self._is_closing
            try:
                os.fsync(self._file)
            except OSError as error:
                self._error = error
            if is_last:
                return
