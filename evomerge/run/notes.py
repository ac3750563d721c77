"""Notes beside the journal: times and memory, in `timings.jsonl`.

They are not in the journal, so that two runs of the same search have the same journal.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

PHASES = ("propose", "descend", "prepare", "merge", "evaluate")
"""What a search spends time in: the optimizer, the steps of descents, then the phases of a
candidate. A preparation is kept for later candidates, such as the order of all magnitudes."""

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
