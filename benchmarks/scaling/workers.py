"""Real workers on this machine, against what the machine itself allows.

The limit of the machine is measured by one or two independent processes (`limit.py`), each pinned
to cores of its own, that score the candidates of the search again, without a driver. Two of them
may do less than twice the work of one, since they share caches, memory and the clock rate. So two
workers are compared with two such processes.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from evomerge.config.schema import load
from evomerge.run.folder import RunFolder
from evomerge.run.history import History
from evomerge.run.journal import Event
from evomerge.setup.freeze import freeze
from evomerge.setup.runs import prepare
from evomerge.setup.search import run_search

HERE = Path(__file__).resolve().parent
FILE = HERE.parents[1] / "configs" / "evolution.yaml"

COUNTS = (1, 2)
"""Numbers of workers."""

POPULATION = 16
"""A multiple of the numbers of workers, so that the last ones of a generation leave no worker
unused for longer than one candidate takes."""


@dataclass(frozen=True)
class Rates:
    """Candidates a second in each round, by kind (`limit`, `processes`, ...) and workers."""

    rounds: dict[tuple[str, int], list[float]]

    @property
    def kinds(self) -> list[str]:
        """The kinds of executors."""
        return [kind for kind, count in self.rounds if count == 1 and kind != "limit"]

    def rate(self, kind: str, count: int) -> float:
        """Return the median of the rounds, in candidates a second."""
        return median(self.rounds[kind, count])

    def efficiency(self, kind: str, count: int) -> float:
        """Return the rate as a share of the limit of the same round: the median of the rounds."""
        pairs = zip(self.rounds[kind, count], self.rounds["limit", count], strict=True)
        return median(own / most for own, most in pairs)


def measure(kinds: Sequence[str], candidates: int, rounds: int) -> Rates:
    """Measure all in turn, round after round, so that other work on the machine hits all alike.

    Args:
        kinds: kinds of executors (`processes`, `ray`).
        candidates: candidates of one search.
        rounds: number of rounds.
    """
    found: dict[tuple[str, int], list[float]] = {}
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(dir=".", prefix=".workers-") as folder:
        for turn in range(rounds):
            for count, (kind, rate) in _round(Path(folder, str(turn)), kinds, candidates):
                found.setdefault((kind, count), []).append(rate)
                print(f"round {turn + 1}: {kind}, {count}: {rate:.2f} a second", flush=True)
    return Rates(found)


def _round(
    folder: Path, kinds: Sequence[str], candidates: int
) -> Iterator[tuple[int, tuple[str, float]]]:
    for count in COUNTS:
        for kind in kinds:
            run = folder / f"{kind}-{count}"
            yield count, (kind, _rate_of_search(run, kind, count, candidates))
        yield count, ("limit", _limit(run, count))


def _rate_of_search(folder: Path, kind: str, count: int, candidates: int) -> float:
    """Return the candidates a second of a search, after its first generation.

    A search pays the start of workers once, so it is left out.
    """
    wanted = [
        f"executor.kind={kind}",
        f"executor.workers={count}",
        "executor.order=generation",
        f"optimizer.population={POPULATION}",
        f"budget.candidates={candidates}",
        "evaluation.threads=1",
        "evaluation.validation.finalists=1",
    ]
    problem = prepare(load(FILE, wanted), FILE.parent)
    run = RunFolder.create(folder, "{}", freeze(problem))
    begun: list[float] = []
    ended: list[float] = []

    def follow(history: History, event: Event) -> None:
        if event["event"] == "ask" and event.get("generation") == 1 and not begun:
            begun.extend((time.perf_counter(), len(history.told)))
        if event["event"] == "tell":
            ended.append(time.perf_counter())

    run_search(problem, run, {}, [follow])
    return (len(ended) - begun[1]) / (ended[-1] - begun[0])


def _limit(run: Path, count: int) -> float:
    """Return the candidates a second of independent processes that score a run's candidates."""
    processes = [
        subprocess.Popen(
            [sys.executable, str(HERE / "limit.py"), str(run), str(number), str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]
    for process in processes:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError("A process that measures the limit of the machine did not start.")
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return sum(float(process.communicate()[0]) for process in processes)


def show(rates: Rates) -> dict[str, float]:
    """Print the table, and return the named ratios."""
    print(f"\nReal workers on this machine, {FILE.name}: candidates a second, share of limit")
    print(f"{'':24}{'1 worker':>20}{'2 workers':>20}{'2 to 1':>9}")
    ratios: dict[str, float] = {}
    for kind in ("limit", *rates.kinds):
        one, two = (rates.rate(kind, count) for count in COUNTS)
        shares = ["", ""]
        if kind != "limit":
            shares = [f" ({rates.efficiency(kind, count):.1%})" for count in COUNTS]
            ratios[f"{kind}, 2 workers to limit"] = round(rates.efficiency(kind, 2), 3)
        name = "independent processes" if kind == "limit" else kind
        print(
            f"{name:24}{f'{one:.2f}{shares[0]}':>20}{f'{two:.2f}{shares[1]}':>20}{two / one:9.2f}"
        )
    ratios["limit, 2 processes to 1"] = round(rates.rate("limit", 2) / rates.rate("limit", 1), 3)
    return ratios
