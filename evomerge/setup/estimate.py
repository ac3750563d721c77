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
from evomerge.merging.methods.matrices import merge_seconds
from evomerge.merging.methods.method import Method
from evomerge.recipe import Recipe
from evomerge.report.words import duration, fine_duration, size_text
from evomerge.scores import Failure, Scores, Split
from evomerge.searching.ranking import FINALISTS
from evomerge.setup.checked import CheckedSearch
from evomerge.setup.memory import prepared_bytes, sources_of
from evomerge.setup.recipes import count_baselines
from evomerge.setup.strategy import make_strategy
from evomerge.setup.worker import MemoryShare, make_worker, run_jobs
from evomerge.setup.workers import shares_prefixes, workers_of
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
    def build(self) -> float:
        """Seconds that a merge takes, the mean of the candidates."""
        return sum(self.builds) / len(self.builds)

    @property
    def evaluate(self) -> float:
        """Seconds that scoring takes, the mean of the candidates."""
        return sum(self.evaluations) / len(self.builds)


@dataclass(frozen=True)
class Estimate:
    """What a search costs, by what a few candidates have cost.

    Attributes:
        candidates: number that the budget allows, baselines included; None if it only has a target.
        search: seconds until all of them are scored on the search documents.
        finals: seconds of the scores on validation and test documents.
        memory: bytes that the workers of one machine need together.
        assumes: what is assumed, one sentence each.
    """

    probe: CostProbe
    workers: int
    candidates: int | None
    search: float | None
    finals: float
    memory: int
    assumes: tuple[str, ...]

    @property
    def seconds(self) -> float | None:
        """Seconds of the whole search; None if the budget only has a target."""
        return None if self.search is None else self.probe.start + self.search + self.finals

    def to_dict(self) -> dict[str, Any]:
        """Return the estimate as plain JSON values: seconds, hours and bytes."""
        probe = self.probe
        return {
            "tried": len(probe.builds),
            "start_seconds": probe.start,
            "build_seconds": probe.build,
            "evaluate_seconds": probe.evaluate,
            "candidate_seconds": probe.build + probe.evaluate,
            "workers": self.workers,
            "candidates": self.candidates,
            "search_seconds": self.search,
            "final_seconds": self.finals,
            "hours": None if self.seconds is None else self.seconds / 3600,
            "peak_bytes": dict(probe.peak),
            "shared_bytes": probe.shared,
            "machine_bytes": self.memory,
            "assumes": list(self.assumes),
        }

    def in_words(self) -> dict[str, str]:
        """Return the estimate for people: name -> text."""
        probe, tried = self.probe, len(self.probe.builds)
        found = {
            "one candidate": f"{fine_duration(probe.build + probe.evaluate)}"
            f"{'' if tried == 1 else f', the mean of {tried}'} "
            f"({fine_duration(probe.build)} to merge, {fine_duration(probe.evaluate)} to score)"
        }
        if self.search is not None and self.seconds is not None:
            found["whole search"] = (
                f"about {duration(self.seconds)}: {fine_duration(probe.start)} to start, "
                f"{duration(self.search)} for {self.candidates} candidates, "
                f"{fine_duration(self.finals)} for the final scores"
            )
        peak = size_text(probe.peak["process"])
        if probe.shared:
            peak += f", of which {size_text(probe.shared)} are files that workers share"
        if "accelerator" in probe.peak:
            peak += f"; {size_text(probe.peak['accelerator'])} on the accelerator"
        found["memory of a worker"] = peak
        if self.memory > probe.peak["process"]:
            found["memory of a machine"] = f"about {size_text(self.memory)}"
        return {**found, "assumed": "; ".join(self.assumes)}


def estimate(checked: CheckedSearch, probe: CostProbe) -> Estimate:
    """Return what a search costs if its candidates cost what the tried ones did, on average."""
    config, workers = checked.config, workers_of(checked.config)
    baselines, budget = len(checked.space.baselines()) + len(config.baselines), config.budget
    each, candidates = probe.build + probe.evaluate, budget.candidates
    if budget.hours is not None:
        in_time = int(max(0.0, 3600 * budget.hours - probe.start) / each) * workers.count
        candidates = in_time if candidates is None else min(candidates, in_time)
    finalists, has_front = config.evaluation.validation.finalists, checked.ranking.has_front
    if finalists is None:  # a front is taken to be as large as a generation
        finalists = make_strategy(checked).generation if has_front else FINALISTS
    documents = {split: sum(map(len, of.values())) for split, of in checked.splits.items()}
    finals = 0.0
    scored: dict[Split, int] = {"validation": finalists, "test": finalists if has_front else 1}
    for split, models in scored.items():
        count = models + baselines if candidates is None else min(models + baselines, candidates)
        share = documents[split] / documents["search"]
        finals += math.ceil(count / workers.count) * (probe.build + probe.evaluate * share)
    return Estimate(
        probe,
        workers.count,
        candidates,
        None if candidates is None else _rounds(checked, candidates, workers.count) * each,
        finals,
        probe.shared + workers.on_a_machine * max(0, probe.peak["process"] - probe.shared),
        tuple(_assumptions(checked, probe, workers.count)),
    )


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


def _assumptions(checked: CheckedSearch, probe: CostProbe, workers: int) -> Iterator[str]:
    """Yield what the estimate assumes, and what it leaves out."""
    config = checked.config
    spread = [a + b for a, b in zip(probe.builds, probe.evaluations, strict=True)]
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


def try_candidates(checked: CheckedSearch) -> CostProbe:
    """Build and score the candidates that the search would begin with, as its worker does.

    Raises:
        InputError: a parent cannot be loaded.
        SearchError: none of the candidates could be scored.
    """
    config, began = checked.config, time.perf_counter()
    first, *recipes = _first_recipes(checked)
    neighbours = workers_of(config).on_a_machine
    share, cores = MemoryShare.of_machine(neighbours), max(1, count_cores() // neighbours)
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


def costly_warning(checked: CheckedSearch) -> str | None:
    """Return a warning if candidates compute the merge of whole matrices anew, else None.

    With the same sources, and as long as it stays in memory, such a merge is computed only once.
    """
    space, host = checked.config.space, checked.checkpoints[checked.host]
    if space.kind == "dataflow":
        return None
    for method in map(get_method, space.methods):
        reason = _why_again(checked, method) if method.svds is not None else None
        if reason is not None:
            shapes = [
                host.tensors[stack.name(layer, suffix)].shape
                for stack in host.language.values()
                for layer, block in enumerate(stack.blocks)
                for suffix in block
            ]
            sources = space.most_parents or sources_of(checked, method.name)
            return (
                f"space.method is {method.name!r}, whose merge takes about "
                f"{fine_duration(merge_seconds(method, shapes, sources))} of CPU time, for nearly "
                f"every candidate anew, since {reason} (docs/methods.md); make the merge a parent, "
                "`merge:FILE.yaml`, which is built once, and search its weight by another method."
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
    room = MemoryShare.of_machine(workers_of(config).on_a_machine).prepared
    return None if prepared_bytes(checked) <= room else "memory is too small to keep it"
