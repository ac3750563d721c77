"""Building and scoring a few candidates before a search, to see what one costs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import psutil

from evomerge.errors import SearchError
from evomerge.evaluation.inference.device import count_cores
from evomerge.execute.protocol import Job
from evomerge.recipe import Recipe
from evomerge.scores import Failure, Scores
from evomerge.setup.checked import CheckedSearch
from evomerge.setup.executor import workers_per_machine
from evomerge.setup.strategy import make_strategy
from evomerge.setup.worker import MemoryShare, make_worker, run_jobs
from evomerge.strategy.members import MateSpace

DIFFERING = 3
"""Number of candidates that are tried where candidates differ: paths, or several methods."""


@dataclass(frozen=True)
class CostProbe:
    """What candidates cost that were built and scored on this machine.

    Attributes:
        start: seconds until a worker is ready: it loads models and prompts, and merges once.
        builds: seconds that each candidate's merge took, after the first one.
        evaluations: seconds that scoring each candidate on all search documents took.
        peak: largest memory of the process in bytes, and of accelerators; see `Scores.peak`.
        shared: bytes of mapped files in `peak`, which all workers of a machine share.
    """

    start: float
    builds: tuple[float, ...]
    evaluations: tuple[float, ...]
    peak: Mapping[str, int]
    shared: int

    @property
    def candidates(self) -> int:
        """Number of candidates that were scored."""
        return len(self.builds)

    @property
    def build(self) -> float:
        """Seconds that a merge takes, the mean of the candidates."""
        return sum(self.builds) / self.candidates

    @property
    def evaluate(self) -> float:
        """Seconds that scoring takes, the mean of the candidates."""
        return sum(self.evaluations) / self.candidates


def try_candidates(checked: CheckedSearch) -> CostProbe:
    """Build and score the candidates that the search would begin with, as its worker does.

    Raises:
        InputError: a parent cannot be loaded.
        SearchError: none of the candidates could be scored.
    """
    config, began = checked.config, time.perf_counter()
    first, *recipes = _first_recipes(checked)
    share = MemoryShare.of_machine(workers_per_machine(config))
    cores = max(1, count_cores() // workers_per_machine(config))
    worker = make_worker(checked, share, most_threads=cores)
    # The first merge computes what later ones keep, and compiles loops; the first documents of a
    # split make its prompts.
    worker.evaluator.try_out(worker.build(first))
    start = time.perf_counter() - began
    jobs = [Job(number, number, recipe) for number, recipe in enumerate(recipes)]
    outcomes = [outcome for _, outcome in run_jobs(worker, config, share)(jobs)]
    scored = [outcome for outcome in outcomes if isinstance(outcome, Scores)]
    failed = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    if not scored:
        raise SearchError(
            f"The candidates that were tried failed, the last one in the stage "
            f"{failed[-1].stage!r}: {failed[-1].reason}"
        )
    build = tuple(item.seconds["prepare"] + item.seconds["merge"] for item in scored)
    evaluate = tuple(item.seconds["evaluate"] for item in scored)
    shared = int(getattr(psutil.Process().memory_info(), "shared", 0))  # known on Linux
    return CostProbe(start, build, evaluate, scored[-1].peak, shared)


def _first_recipes(checked: CheckedSearch) -> list[Recipe]:
    """Return the recipe to begin with, and those to try."""
    space = checked.config.space
    differ = space.kind != "parameters" or len(space.methods) > 1
    strategy, first = make_strategy(checked), 0
    if isinstance(checked.space, MateSpace):  # it merges earlier candidates
        for first, label in enumerate(checked.space.baselines(), start=1):
            strategy.add_baseline(first - 1, label)
    count = 1 + (DIFFERING if differ else 1)
    return [strategy.ask(first + number).recipe for number in range(count)]
