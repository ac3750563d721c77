"""What a search costs: time and memory of a whole one, from a few candidates that are tried out."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import psutil

from evomerge.errors import SearchError
from evomerge.evaluation.inference.device import count_cores
from evomerge.execute.protocol import Job
from evomerge.merging.methods import get_method
from evomerge.merging.methods.method import Method
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe import Recipe
from evomerge.report.words import duration, fine_duration, size_text
from evomerge.scores import Failure, Scores, Split
from evomerge.searching.ranking import FINALISTS
from evomerge.setup.checked import CheckedSearch
from evomerge.setup.executor import count_all_workers, shares_prefixes, workers_per_machine
from evomerge.setup.memory import prepared_bytes, sources_of
from evomerge.setup.recipes import count_baselines
from evomerge.setup.strategy import make_strategy
from evomerge.setup.worker import MemoryShare, make_worker, run_jobs
from evomerge.strategy.members import MateSpace


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


def costly_warning(checked: CheckedSearch) -> str | None:
    """Return a warning if candidates compute the merge of whole matrices anew, else None.

    With the same sources, and as long as it stays in memory, such a merge is computed only once.
    """
    space = checked.config.space
    if space.kind == "dataflow":
        return None
    for method in map(get_method, space.methods):
        reason = _why_again(checked, method) if method.svds is not None else None
        if reason is not None:
            from evomerge.merging.methods.matrices import merge_seconds

            sources = space.most_parents or sources_of(checked, method.name)
            seconds = merge_seconds(method, _shapes(checked.checkpoints[checked.host]), sources)
            return (
                f"space.method is {method.name!r}, whose merge takes about "
                f"{fine_duration(seconds)} of CPU time, for nearly every candidate anew, since "
                f"{reason} (docs/methods.md); make the merge a parent, `merge:FILE.yaml`, which is "
                "built once, and search its weight by another method."
            )
    return None


def _why_again(checked: CheckedSearch, method: Method) -> str | None:
    """Return why candidates differ in what this method computes, or None if they do not."""
    config = checked.config
    if config.space.most_parents is not None:
        return "candidates of a pool merge different parents"
    if config.space.kind == "joint":
        return "the layers of a path change places"
    shared = {knob.name for knob in method.knobs if knob.per == "merge"} - {"lambda"}
    for name, value in config.space.knobs.items():
        if name in shared and not isinstance(value, float):
            return f"`space.knobs.{name}` is searched"
    room = MemoryShare.of_machine(workers_per_machine(config)).prepared
    return None if prepared_bytes(checked) <= room else "memory is too small to keep it"


def _shapes(host: Checkpoint) -> list[tuple[int, ...]]:
    """Return the shapes of the tensors in the blocks of the language model."""
    return [
        host.tensors[stack.name(layer, rest)].shape
        for stack in host.language.values()
        for layer, block in enumerate(stack.blocks)
        for rest in block
    ]


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
