"""The time and the memory of a whole search, estimated from a few candidates."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from evomerge.report.words import duration, fine_duration, size_text
from evomerge.scores import Split
from evomerge.searching.ranking import FINALISTS
from evomerge.setup.baselines import count_baselines
from evomerge.setup.checked import CheckedSearch
from evomerge.setup.cost_probe import CostProbe
from evomerge.setup.executor import count_all_workers, shares_prefixes, workers_per_machine
from evomerge.setup.strategy import make_strategy


@dataclass(frozen=True)
class Estimate:
    """What a search costs, by what a few candidates have cost.

    Attributes:
        trial: what was measured.
        workers: number of workers, on all machines.
        candidates: number of candidates that the budget allows, baselines included; None if it only
            has a target.
        search: seconds until all of them are scored on the search documents.
        finals: seconds of the scores on validation and test documents.
        memory: bytes that the workers of one machine need together.
        assumes: what the estimate assumes, one sentence each.
    """

    trial: CostProbe
    workers: int
    candidates: int | None
    search: float | None
    finals: float
    memory: int
    assumes: tuple[str, ...]

    @property
    def seconds(self) -> float | None:
        """Seconds of the whole search; None if the budget only has a target."""
        return None if self.search is None else self.trial.start + self.search + self.finals

    def to_dict(self) -> dict[str, Any]:
        """Return the estimate as plain JSON values: seconds, hours and bytes."""
        trial = self.trial
        return {
            "tried": trial.candidates,
            "start_seconds": trial.start,
            "build_seconds": trial.build,
            "evaluate_seconds": trial.evaluate,
            "candidate_seconds": trial.build + trial.evaluate,
            "workers": self.workers,
            "candidates": self.candidates,
            "search_seconds": self.search,
            "final_seconds": self.finals,
            "hours": None if self.seconds is None else self.seconds / 3600,
            "peak_bytes": dict(trial.peak),
            "shared_bytes": trial.shared,
            "machine_bytes": self.memory,
            "assumes": list(self.assumes),
        }

    def in_words(self) -> dict[str, str]:
        """Return the estimate for people: name -> text."""
        trial = self.trial
        peak = size_text(trial.peak["process"])
        if trial.shared:
            peak += f", of which {size_text(trial.shared)} are files that workers share"
        if "accelerator" in trial.peak:
            peak += f"; {size_text(trial.peak['accelerator'])} on the accelerator"
        several = "" if trial.candidates == 1 else f", the mean of {trial.candidates}"
        several_here = self.memory > trial.peak["process"]
        whole = {}
        if self.search is not None and self.seconds is not None:
            scores = f"{duration(self.search)} for {self.candidates} candidates"
            whole = {
                "whole search": f"about {duration(self.seconds)}: {fine_duration(trial.start)} to "
                f"start, {scores}, {fine_duration(self.finals)} for the final scores"
            }
        return {
            "one candidate": f"{fine_duration(trial.build + trial.evaluate)}{several} "
            f"({fine_duration(trial.build)} to merge, {fine_duration(trial.evaluate)} to score)",
            **whole,
            "memory of a worker": peak,
            **({"memory of a machine": f"about {size_text(self.memory)}"} if several_here else {}),
            "assumed": "; ".join(self.assumes),
        }


def estimate(checked: CheckedSearch, trial: CostProbe) -> Estimate:
    """Return what a search costs if its candidates cost what the tried ones did, on average.

    Args:
        checked: the search.
        trial: what was measured.
    """
    config, workers = checked.config, count_all_workers(checked.config)
    baselines, budget = len(checked.space.baselines()) + len(config.baselines), config.budget
    each = trial.build + trial.evaluate
    candidates = budget.candidates
    if budget.hours is not None:
        in_time = int(max(0.0, 3600 * budget.hours - trial.start) / each) * workers
        candidates = in_time if candidates is None else min(candidates, in_time)
    search = None if candidates is None else _rounds(checked, candidates, workers) * each
    finalists = _finalists(checked)
    models: dict[Split, int] = {
        "validation": finalists + baselines,
        "test": (finalists if checked.ranking.has_front else 1) + baselines,
    }
    finals = 0.0
    for split, count in models.items():
        of_worker = math.ceil(_at_most(count, candidates) / workers)
        finals += of_worker * (trial.build + trial.evaluate * _documents(checked, split))
    alone = max(0, trial.peak["process"] - trial.shared)
    memory = trial.shared + workers_per_machine(config) * alone
    assumes = tuple(_assumptions(checked, trial, workers))
    return Estimate(trial, workers, candidates, search, finals, memory, assumes)


def _finalists(checked: CheckedSearch) -> int:
    """Return the number of finalists; a front is taken to be as large as a generation."""
    wanted = checked.config.evaluation.validation.finalists
    if wanted is not None:
        return wanted
    return make_strategy(checked).generation if checked.ranking.has_front else FINALISTS


def _rounds(checked: CheckedSearch, candidates: int, workers: int) -> int:
    """Return how many candidates a worker scores one after the other.

    Workers that have scored their part of the baselines, or of a generation, wait for the others.
    """
    first = min(candidates, len(checked.space.baselines()))
    every = min(candidates, count_baselines(checked.config, checked.space))
    soup = [1] * (every - first)  # each average depends on the score of the one before
    searched = candidates - every
    strategy = make_strategy(checked)
    together = searched if checked.config.executor.order == "arrival" else strategy.generation
    whole, rest = divmod(searched, max(1, together))
    parts = [first, *soup, *[together] * whole, rest]
    return sum(math.ceil(part / workers) for part in parts)


def _at_most(count: int, bound: int | None) -> int:
    return count if bound is None else min(count, bound)


def _documents(checked: CheckedSearch, split: Split) -> float:
    """Return the number of documents of a split, as a multiple of that of the search documents."""
    count = {name: sum(map(len, of.values())) for name, of in checked.splits.items()}
    return count[split] / count["search"]


def _assumptions(checked: CheckedSearch, trial: CostProbe, workers: int) -> Iterator[str]:
    """Yield what the estimate assumes, and what it leaves out."""
    config = checked.config
    spread = [a + b for a, b in zip(trial.builds, trial.evaluations, strict=True)]
    if len(spread) == 1:
        yield "every candidate takes as long as the one that was tried"
    else:
        yield (
            f"candidates take as long on average as the {len(spread)} that were tried, which took "
            f"{fine_duration(min(spread))} to {fine_duration(max(spread))}"
        )
    yield "a document of any split takes the same time"
    if shares_prefixes(config):
        yield "a generation shares more work than so few paths, so it may take less"
    if config.evaluation.racing.enabled is True:
        yield "racing saves nothing, though it leaves out documents of most candidates"
    for bound in ("target", "patience"):
        if getattr(config.budget, bound) is not None:
            yield f"the search does not end early at budget.{bound}"
    if config.executor.kind == "ray":
        yield "every worker is as fast as this machine"
    if workers > 1:
        yield f"{workers} workers do not slow each other down"
    yield "imports and checks before the start are not counted"
