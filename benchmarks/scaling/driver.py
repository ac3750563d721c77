"""The driver alone: how many candidates a second it manages, and how long it takes to resume."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from evomerge.run.history import History
from evomerge.run.journal import Event
from scaling.outcomes import InstantExecutor
from scaling.searches import RACING, DriverClock, Setting, run_search, space_of_200_genes

WIDTH = 64
"""Jobs in flight at a time."""


@dataclass(frozen=True)
class Driver:
    """The speed of the driver with an executor that answers at once.

    Times of a candidate are milliseconds.

    Attributes:
        candidates: number of candidates.
        own: CPU time of the driver, without the optimizer's.
        optimizer: CPU time of the optimizer.
        early: `own` of the candidates in the second quarter.
        late: `own` of the candidates in the last quarter. It would be much longer than `early` if
            a step looked at all earlier candidates.
        wall: candidates in a second of wall-clock time, with the optimizer.
        resume: wall-clock seconds from opening the run folder to the next job.
        resume_cpu: the same in CPU seconds.
    """

    candidates: int
    own: float
    optimizer: float
    early: float
    late: float
    wall: float
    resume: float
    resume_cpu: float

    @property
    def rate(self) -> float:
        """Candidates in a second of CPU time, without the time of the optimizer."""
        return 1000 / self.own


@dataclass(frozen=True)
class _Mark:
    """Seconds at the outcome of a candidate."""

    wall: float
    own: float
    optimizer: float


def measure(setting: Setting) -> Driver:
    """Run a search with an executor that answers at once, then resume it for one candidate more."""
    clock, executor = DriverClock(), InstantExecutor(WIDTH)
    marks: list[_Mark] = []

    def follow(history: History, event: Event) -> None:
        if event["event"] == "tell":
            cpu = time.process_time() - clock.optimizer - executor.spent
            marks.append(_Mark(time.perf_counter(), cpu, clock.optimizer))

    def milliseconds(what: str, first: int, last: int) -> float:
        return 1000 * (getattr(marks[last], what) - getattr(marks[first], what)) / (last - first)

    with tempfile.TemporaryDirectory(dir=".", prefix=".driver-") as folder:
        run, end = Path(folder, "run"), setting.candidates - 1
        run_search(run, setting, lambda: executor, clock, [follow])
        wall, cpu = _seconds_to_resume(run, replace(setting, candidates=setting.candidates + 1))
    return Driver(
        setting.candidates,
        milliseconds("own", 0, end),
        milliseconds("optimizer", 0, end),
        milliseconds("own", end // 4, end // 2),
        milliseconds("own", 3 * end // 4, end),
        1000 / milliseconds("wall", 0, end),
        wall,
        cpu,
    )


def _seconds_to_resume(run: Path, setting: Setting) -> tuple[float, float]:
    """Return the wall-clock and CPU seconds until a resumed search has its next job."""
    began = time.perf_counter(), time.process_time()
    found: list[tuple[float, float]] = []

    def make() -> InstantExecutor:
        found.append((time.perf_counter() - began[0], time.process_time() - began[1]))
        return InstantExecutor(WIDTH)

    run_search(run, setting, make, DriverClock())
    return found[0]


def settings(candidates: int, many: int) -> list[Setting]:
    """Return what is measured.

    Args:
        candidates: number of candidates.
        many: number of candidates of the first one, whose time to resume counts.
    """
    space = space_of_200_genes()
    return [
        Setting(space, "random", "arrival", many),
        Setting(space, "random", "generation", candidates),
        Setting(space, "nevergrad:OnePlusOne", "arrival", candidates),
        Setting(space, "diagonal-cma", "generation", candidates),
        Setting(space, "cma", "generation", candidates),
        Setting(space, "cma", "generation", candidates, population=256),
        Setting(space, "cma", "arrival", candidates),
        Setting(space, "cma", "generation", candidates, recent=RACING),
        Setting(space, "random", "arrival", candidates, recent=RACING),
    ]


def show(rows: Sequence[tuple[Setting, Driver]]) -> dict[str, float]:
    """Print the table, and return the named figures."""
    print("\nThe driver alone: 200 genes, 400 documents; times of a candidate in ms")
    print(
        f"{'':34}{'candi-':>8}{'candidates':>12}{'own':>7}{'2nd':>7}{'last':>7}"
        f"{'opti-':>8}{'with optimizer':>16}{'resume,':>9}\n"
        f"{'optimizer, order':34}{'dates':>8}{'a second':>12}{'':>7}{'quarter':>14}{'':>7}"
        f"{'mizer':>8}{'a second, wall':>16}{'s (CPU)':>13}"
    )
    for setting, row in rows:
        print(
            f"{setting.name:34}{row.candidates:8}{row.rate:12.0f}{row.own:7.2f}{row.early:7.2f}"
            f"{row.late:7.2f}{row.optimizer:8.2f}{row.wall:16.0f}"
            f"{row.resume:7.1f} ({row.resume_cpu:.1f})"
        )
    first = rows[0][1]
    return {
        "driver candidates a second": round(min(row.rate for _, row in rows), 1),
        "driver last to second quarter": round(max(row.late / row.early for _, row in rows), 2),
        "resume seconds": round(first.resume, 2),
        "resume candidates": float(first.candidates),
    }
