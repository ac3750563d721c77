"""The journal: an append-only file of events that can be read after a kill at any byte.

Each line is one event as JSON. Its first key `n` is the number of the line, its last key `check` is
made of all lines up to it, so a line that was changed, doubled, moved or lost is noticed. A kill
leaves at most one incomplete line, the last one: readers leave it out, the next writer removes it.
There are no clock times in it, so two runs of the same search write the same bytes. Times and
memory are in a file of their own, `timings.jsonl`.
"""

import hashlib
import json
import os
import shlex
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from evomerge import system
from evomerge.errors import RunFolderError, RunInUseError, SearchError
from evomerge.parsing.texts import json_value

FORMAT = 4
"""Version of the journal format."""

Event: TypeAlias = dict[str, Any]
"""One event as plain JSON, without the keys `n` and `check`."""

HEADER: Event = {"event": "header", "format": FORMAT}
"""The first event of every journal."""

_CHECK = b',"check":"%s"}'
_TAIL = len(_CHECK % bytes(16))
_FLUSH_INTERVAL = 1.0  # seconds between two flushes to disk, at least: fast candidates do not wait
_TRIES, _PAUSE = 50, 0.02  # seconds


class Lines:
    """Makes the lines of a journal one after the other, or reads them back."""

    def __init__(self) -> None:
        self.count, self._check = 0, b""

    def encode(self, event: Mapping[str, Any]) -> bytes:
        """Return the line, with its newline, of the next event."""
        numbered = {"n": self.count + 1, **event}
        text = json.dumps(numbered, separators=(",", ":"), ensure_ascii=False).encode()[:-1]
        return text + self._next(text) + b"\n"

    def decode(self, line: bytes) -> Event | None:
        """Return the event of the next line, given without newline; None: it is not the next."""
        text, tail = line[:-_TAIL], line[-_TAIL:]
        if self._next(text) != tail:
            return None
        event: Event = json_value(text + b"}", f"line {self.count}", RunFolderError)
        event.pop("n", None)
        return event

    def _next(self, text: bytes) -> bytes:
        self._check = hashlib.sha256(self._check + text).hexdigest()[:16].encode()
        self.count += 1
        return _CHECK % self._check


def _scan(data: bytes, path: Path) -> tuple[list[Event], int, Lines]:
    """Return the events of the complete lines, the number of their bytes, and what writes on."""
    lines, events, size = Lines(), list[Event](), 0
    *complete, _ = data.split(b"\n")
    for line in complete:
        event = lines.decode(line)
        if event is None or not (events or event == HEADER):
            break
        events.append(event)
        size += len(line) + 1
    header = Lines().encode(HEADER)
    is_torn = header.startswith(data.rstrip(b"\0"))  # a power cut may leave zeros
    if not events and (not is_torn or path.with_name("best.yaml").exists()):
        raise RunFolderError(
            f"{path} is no journal of format {FORMAT}; use the version of evomerge that wrote it, "
            "or restore it from a copy."
        )
    if len(events) < len(complete):
        raise RunFolderError(
            f"{path} is damaged: line {len(events) + 1} was changed, or does not follow the line "
            "before it; restore the file from a copy, or keep what is before that line: "
            f"`head -n {len(events)} {shlex.quote(path.name)}`."
        )
    return events, size, lines


def read(path: Path) -> list[Event]:
    """Return the complete events of a journal. Another process may write to it meanwhile.

    RunFolderError: the file is missing, damaged, or of another format.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read: {error.strerror}.") from error
    return _scan(data, path)[0]


def is_held(path: Path) -> bool:
    """Return whether a process writes to a journal now."""
    try:
        system.unlock(path, system.lock(path, shared=True))
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False


class Journal:
    """A journal that is open for writing; meanwhile no other process can write to it.

    `events` are those that it had when it was opened; later ones are not kept in memory, where
    those of a long search take gigabytes. The lock is on the journal itself where that keeps no
    reader out, since a lock file can be removed; it ends with the process.

    Raises:
        RunFolderError: the file is damaged or of another format.
        RunInUseError: another process writes to it.
        OSError: it cannot be opened, or the disk is full.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._flushed_at = path, 0.0
        self._handle: int | None = os.open(path, os.O_RDWR | os.O_APPEND)
        self._lock: int | None = None
        _open.add(self)
        try:
            self._lock = _locked(path)
            (path.parent / "lock").write_text(f"{os.getpid()}\n", encoding="utf-8")
            self.events, self._size, self._lines = _scan(path.read_bytes(), path)
            os.ftruncate(self._handle, self._size)
            os.fsync(self._handle)
        except BaseException:
            self.close()
            raise
        if not self.events:  # the header was torn
            self.events.append(dict(HEADER))
            self.append(HEADER)

    def append(self, event: Mapping[str, Any]) -> None:
        """Write an event. A kill does not lose it; a power cut can, until the next flush to disk.

        Raises:
            OSError: it cannot be written, or not be flushed to disk.
            SearchError: another process has replaced, removed or changed the file.
        """
        assert self._handle is not None, "the journal is closed"
        is_in_place = False
        with suppress(FileNotFoundError):
            there = self.path.stat()
            same = os.path.samestat(there, os.fstat(self._handle))
            is_in_place = same and there.st_size == self._size
        if not is_in_place:
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
        if time.monotonic() - self._flushed_at >= _FLUSH_INTERVAL:
            os.fsync(self._handle)
            self._flushed_at = time.monotonic()

    def close(self) -> None:
        """Flush all events to disk and close the file; OSError: they could not be flushed."""
        if self._handle is not None:
            handle, self._handle = self._handle, None
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
                self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            system.unlock(self.path, self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _locked(path: Path) -> int:
    """Lock a journal. It is tried for a second, since `is_held` has locks for a moment."""
    folder = path.parent
    for _ in range(_TRIES):
        try:
            return system.lock(path)
        except BlockingIOError:
            time.sleep(_PAUSE)
    owner = "another process"
    with suppress(OSError, ValueError):
        owner = f"process {int((folder / 'lock').read_text(encoding='utf-8'))}"
    raise RunInUseError(
        f"{folder} is being written by {owner}; wait until it ends, or stop it first."
    )


_open: weakref.WeakSet[Journal] = weakref.WeakSet()


def _leave_to_parent() -> None:
    """Close what a forked child has inherited, so that the lock ends with the parent process."""
    for journal in _open:
        for handle in filter(None, (journal._handle, journal._lock)):
            os.close(handle)
        journal._handle = journal._lock = None


system.after_fork(_leave_to_parent)


PHASES = ("propose", "descend", "prepare", "merge", "evaluate", "write")
"""What a search spends time in: the optimizer, the steps of descents, then the phases of a
candidate, and the texts of the base. A preparation is kept for later
candidates, such as the order of all magnitudes."""

_RECENT = 100  # candidates that the speed of a search is computed from, at most


def lines_of(path: Path) -> list[str]:
    """Return the lines of a file; none if it is missing."""
    if not path.is_file():
        return []
    return path.read_text(encoding="utf-8", errors="replace").splitlines()


@dataclass(frozen=True)
class Spent:
    """The time of one phase in all, in wall-clock and CPU seconds."""

    seconds: float
    cpu_seconds: float

    @property
    def text(self) -> str:
        """The seconds, and the CPU seconds in brackets."""
        return f"{self.seconds:.1f} ({self.cpu_seconds:.1f})"


_Time = Annotated[float, Field(ge=0, lt=1e11)]  # seconds


class _Line(BaseModel):
    """A line of `timings.jsonl`; `seconds` and `cpu_seconds` are those of each phase."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)
    session: _Time | None = None
    elapsed: _Time = 0.0
    event: str | None = None
    candidate: int | None = None
    seconds: dict[str, _Time] = {}
    cpu_seconds: dict[str, _Time] = {}
    peak: dict[str, Annotated[int, Field(ge=0, lt=10**18)]] = {}  # bytes


class Timings:
    """The times of a run, in `timings.jsonl`; lines that do not fit are ignored."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def note(self, entry: Mapping[str, Any]) -> None:
        """Append an entry to the file, as one line of JSON."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(entry)) + "\n")

    def hours(self) -> float:
        """Return the working time so far in hours, over all sessions."""
        sessions: dict[float, float] = {}
        for line in self._lines():
            if line.session is not None:
                sessions[line.session] = max(sessions.get(line.session, 0.0), line.elapsed)
        return sum(sessions.values()) / 3600

    def candidates_per_hour(self) -> float | None:
        """Return the recent speed of the last session; None: of fewer than two candidates."""
        timed = [line for line in self._lines() if line.session is not None]
        latest = [line for line in timed if line.session == timed[-1].session]
        ends = [line.elapsed for line in latest if line.event == "tell"][-_RECENT:]
        if len(ends) < 2 or ends[-1] <= ends[0]:
            return None
        return 3600 * (len(ends) - 1) / (ends[-1] - ends[0])

    def spent(self) -> dict[str, Spent]:
        """Return the time of each phase that candidates, or what makes them, have spent time in."""
        spent = dict[str, Spent]()
        for line in self._lines():
            for phase, seconds in line.seconds.items():
                before = spent.get(phase, Spent(0.0, 0.0))
                cpu = line.cpu_seconds.get(phase, 0.0)
                spent[phase] = Spent(before.seconds + seconds, before.cpu_seconds + cpu)
        return {phase: spent[phase] for phase in PHASES if phase in spent}

    def of_candidates(self) -> dict[int, dict[str, float]]:
        """Return the wall-clock seconds of each candidate by phase, final scores among them."""
        candidates = dict[int, dict[str, float]]()
        for line in self._lines():
            if line.candidate is not None:
                spent = candidates.setdefault(line.candidate, {})
                for phase, seconds in line.seconds.items():
                    spent[phase] = spent.get(phase, 0.0) + seconds
        return candidates

    def peak(self) -> dict[str, int]:
        """Return the largest memory of `process` and `accelerator` in bytes, as far as known."""
        peak: dict[str, int] = {}
        for line in self._lines():
            peak |= {name: max(peak.get(name, 0), size) for name, size in line.peak.items()}
        return peak

    def cpu_seconds(self) -> float:
        """Return the CPU seconds of all phases, with the optimizer, descents and final scores."""
        return sum(sum(line.cpu_seconds.values()) for line in self._lines())

    def _lines(self) -> Iterator[_Line]:
        for text in lines_of(self._path):
            with suppress(ValidationError):
                yield _Line.model_validate_json(text)
