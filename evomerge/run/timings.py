"""How long a run took, its candidates by phase, and its memory: the file `timings.jsonl`.

Nothing depends on it but the bound `budget.hours` and what people are shown. A kill may lose a
line, and lines that cannot be read are ignored.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.errors import printable
from evomerge.run.side_file import SideFile

PHASES = ("prepare", "merge", "evaluate")
"""The phases of a candidate.

`prepare`: what merges need and keep for later candidates, such as the order of all magnitudes.
`merge`: writing the merged weights. `evaluate`: scoring the model.
"""

PLACES = ("process", "accelerator")
"""Where memory is measured."""

RECENT = 100
"""Number of candidates that the speed of a search is computed from, at most."""

_LARGEST = 1e11
"""Seconds; a line with a larger time is ignored."""

_MOST_TENSORS = 1e9
"""A preparation of more tensors is ignored."""

_MOST_BYTES = 1e18
"""A larger memory is ignored."""


@dataclass(frozen=True)
class Spent:
    """The time of one phase, over all candidates and splits.

    Attributes:
        seconds: wall-clock seconds.
        cpu_seconds: CPU seconds of the scoring processes, all threads; None where they are unknown.
    """

    seconds: float
    cpu_seconds: float | None

    @property
    def text(self) -> str:
        """The seconds, and the CPU seconds in brackets if they are known."""
        cpu = "" if self.cpu_seconds is None else f" ({self.cpu_seconds:.1f})"
        return f"{self.seconds:.1f}{cpu}"


class Timings:
    """The times of a run.

    Args:
        path: the file `timings.jsonl`; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = SideFile(path)

    def note(self, entry: Mapping[str, Any]) -> None:
        """Append a line. If the file cannot be written, this is a warning in the log, once.

        Raises:
            OSError: the disk is full.
        """
        self._file.append(json.dumps(dict(entry)) + "\n")

    def hours(self) -> float:
        """Return the working time so far in hours, over all sessions."""
        sessions: dict[float, float] = {}
        for entry in self._entries():
            session, elapsed = _time(entry.get("session")), _time(entry.get("elapsed"))
            if session is not None and elapsed is not None:
                sessions[session] = max(sessions.get(session, 0.0), elapsed)
        return sum(sessions.values()) / 3600

    def candidates_per_hour(self) -> float | None:
        """Return how many candidates an hour got their first outcome of late.

        Returns:
            the rate over the last `RECENT` candidates of the last session; None if this session has
            fewer than two.
        """
        session: float | None = None
        times: list[float] = []
        for entry in self._entries():
            elapsed, own = _time(entry.get("elapsed")), _time(entry.get("session"))
            if elapsed is None or own is None:
                continue
            if own != session:
                session, times = own, []
            if entry.get("event") == "tell":
                times.append(elapsed)
        latest = times[-RECENT:]
        if len(latest) < 2 or latest[-1] <= latest[0]:
            return None
        return 3600 * (len(latest) - 1) / (latest[-1] - latest[0])

    def spent(self) -> dict[str, Spent]:
        """Return the time of each phase that candidates have spent time in."""
        found: dict[str, Spent] = {}
        for entry in self._entries():
            seconds, cpu = _by_phase(entry.get("seconds")), _by_phase(entry.get("cpu_seconds"))
            for phase, own in seconds.items():
                before = found.get(phase, Spent(0.0, 0.0))
                known = phase in cpu and before.cpu_seconds is not None
                total = (before.cpu_seconds or 0.0) + cpu[phase] if known else None
                found[phase] = Spent(before.seconds + own, total)
        return {phase: found[phase] for phase in PHASES if phase in found}

    def peak(self) -> dict[str, int]:
        """Return the largest memory of a process that scored candidates, in bytes.

        Returns:
            `process`, and `accelerator` if there is one; empty if nothing is known.
        """
        found: dict[str, int] = {}
        for entry in self._entries():
            peak = entry.get("peak")
            for name in PLACES:
                size = peak.get(name) if isinstance(peak, dict) else None
                if isinstance(size, int) and 0 < size < _MOST_BYTES:
                    found[name] = max(found.get(name, 0), size)
        return found

    def by_candidate(self) -> dict[int, dict[str, float]]:
        """Return the seconds of each candidate on the search documents, by phase.

        A candidate that was scored again after a kill has the times of the last time.
        """
        return {
            entry["candidate"]: _by_phase(entry.get("seconds"))
            for entry in self._entries()
            if entry.get("event") == "tell" and isinstance(entry.get("candidate"), int)
        }

    def spans(self) -> dict[int, tuple[float, float]]:
        """Return when each candidate's first scoring began and ended: number -> Unix times.

        It began as many seconds before its end as its phases took together.
        """
        found: dict[int, tuple[float, float]] = {}
        for entry in self._entries():
            number, end = entry.get("candidate"), _moment(entry)
            if entry.get("event") == "tell" and isinstance(number, int) and end is not None:
                seconds = sum(_by_phase(entry.get("seconds")).values())
                found.setdefault(number, (max(0.0, end - seconds), end))
        return found

    def latest(self) -> float | None:
        """Return the Unix time of the last line; None if no line has a time."""
        times = [moment for entry in self._entries() if (moment := _moment(entry)) is not None]
        return times[-1] if times else None

    def preparation(self) -> str | None:
        """Return how far the preparation is that the last line belongs to, for people to read.

        Returns:
            a text such as `preparing ties (30 of 272 tensors)`; None if the last line belongs to
            none, or it is complete.
        """
        last = None
        for entry in self._entries():
            last = entry
        if last is None or last.get("phase") != "prepare":
            return None
        method, done, total = last.get("method"), last.get("done"), last.get("total")
        if not isinstance(method, str) or not isinstance(done, int) or not isinstance(total, int):
            return None
        if not 0 <= done < total < _MOST_TENSORS:
            return None
        return f"preparing {printable(method)} ({done} of {total} tensors)"

    def _entries(self) -> Iterator[dict[str, Any]]:
        if not self._path.is_file():  # there is no end to reading a pipe or a device
            return
        try:
            text = self._path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return
        for line in text.splitlines():
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(entry, dict):
                yield entry


def _time(value: Any) -> float | None:
    """Return a number of seconds; None for any other value."""
    valid = isinstance(value, (int, float)) and 0 <= value < _LARGEST
    return float(value) if valid else None


def _moment(entry: Mapping[str, Any]) -> float | None:
    """Return the Unix time of a line; None if it has none."""
    session, elapsed = _time(entry.get("session")), _time(entry.get("elapsed"))
    return None if session is None or elapsed is None else session + elapsed


def _by_phase(value: Any) -> dict[str, float]:
    """Return the seconds of each phase that has valid ones."""
    if not isinstance(value, dict):
        return {}
    times = {phase: _time(value.get(phase)) for phase in PHASES}
    return {phase: seconds for phase, seconds in times.items() if seconds is not None}
