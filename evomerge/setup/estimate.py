"""What a search costs: time and memory of a whole one, from a few candidates that are tried out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import psutil

from evomerge.errors import SearchError
from evomerge.evaluation.inference.device import count_cores
from evomerge.evaluation.inference.rows import Forms, forms_in_words
from evomerge.execute.protocol import Job
from evomerge.optimize.descent import Leg, Reached
from evomerge.recipe import Recipe
from evomerge.report.words import duration, fine_duration, size_text
from evomerge.scores import Failure, Scores, Split
from evomerge.searching.ranking import FINALISTS
from evomerge.setup.checked import CheckedSearch
from evomerge.setup.strategy import make_strategy
from evomerge.setup.worker import make_worker, threads_of
from evomerge.setup.workers import workers_of
from evomerge.strategy.gradient import LEG
from evomerge.strategy.protocol import Descending, Strategy

STEPS_TRIED = 2
"""Number of steps of a descent by which one leg that is tried is longer than the other."""

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
        step: seconds of a step of a descent; 0 without descents.
        forms: how the reference answers of each task are written; empty if none are learned.
    """

    start: float
    builds: tuple[float, ...]
    evaluations: tuple[float, ...]
    peak: Mapping[str, int]
    shared: int
    step: float = 0.0
    forms: Forms = field(default_factory=dict)


@dataclass(frozen=True)
class Estimate:
    """What a search costs, by what a few candidates have cost.

    Attributes:
        tried: number of candidates that were tried; `build_seconds` and `evaluate_seconds` are what
            one of them took on average.
        candidates: number that the budget allows, baselines included; None if it only has a target.
        search_seconds: until all of them are scored on the search documents.
        final_seconds: for the scores on validation and test documents.
        peak_bytes, shared_bytes: see `CostProbe`.
        machine_bytes: what the workers of one machine need together.
        step_seconds, forms: see `CostProbe`.
        assumes: what is assumed, one sentence each.
    """

    tried: int
    start_seconds: float
    build_seconds: float
    evaluate_seconds: float
    workers: int
    candidates: int | None
    search_seconds: float | None
    final_seconds: float
    peak_bytes: Mapping[str, int]
    shared_bytes: int
    machine_bytes: int
    step_seconds: float
    forms: Forms
    assumes: tuple[str, ...]

    @property
    def candidate_seconds(self) -> float:
        """Seconds that a candidate takes."""
        return self.build_seconds + self.evaluate_seconds

    @property
    def seconds(self) -> float | None:
        """Seconds of the whole search; None if the budget only has a target."""
        if self.search_seconds is None:
            return None
        return self.start_seconds + self.search_seconds + self.final_seconds

    def to_dict(self) -> dict[str, Any]:
        """Return the estimate as plain JSON values: seconds, hours and bytes."""
        hours = None if self.seconds is None else self.seconds / 3600
        return {**asdict(self), "candidate_seconds": self.candidate_seconds, "hours": hours}

    def in_words(self) -> dict[str, str]:
        """Return the estimate for people: name -> text."""
        build, evaluate = fine_duration(self.build_seconds), fine_duration(self.evaluate_seconds)
        mean = "" if self.tried == 1 else f", the mean of {self.tried}"
        each = f"{fine_duration(self.candidate_seconds)}{mean}"
        found = {"one candidate": f"{each} ({build} to merge, {evaluate} to score)"}
        if self.step_seconds:
            found["one step of a descent"] = fine_duration(self.step_seconds)
        if self.forms:
            found["answers are learned"] = forms_in_words(self.forms)
        if self.search_seconds is not None and self.seconds is not None:
            found["whole search"] = (
                f"about {duration(self.seconds)}: {fine_duration(self.start_seconds)} to start, "
                f"{duration(self.search_seconds)} for {self.candidates} candidates, "
                f"{fine_duration(self.final_seconds)} for the final scores"
            )
        peak = size_text(self.peak_bytes["process"])
        if self.shared_bytes:
            peak += f", of which {size_text(self.shared_bytes)} are files that workers share"
        if "accelerator" in self.peak_bytes:
            peak += f"; {size_text(self.peak_bytes['accelerator'])} on the accelerator"
        found["memory of a worker"] = peak
        if self.machine_bytes > self.peak_bytes["process"]:
            found["memory of a machine"] = f"about {size_text(self.machine_bytes)}"
        return {**found, "assumed": "; ".join(self.assumes)}


def estimate(checked: CheckedSearch, probe: CostProbe) -> Estimate:
    """Return what a search costs if its candidates cost what the tried ones did, on average."""
    config, workers = checked.config, workers_of(checked.config)
    baselines, budget = len(checked.space.baselines()), config.budget
    tried = len(probe.builds)
    build, evaluate = sum(probe.builds) / tried, sum(probe.evaluations) / tried
    each, candidates = build + evaluate, budget.candidates
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
        finals += math.ceil(count / workers.count) * (build + evaluate * share)
    peak = probe.peak["process"]
    rounds = None if candidates is None else _rounds(checked, candidates, workers.count)
    steps = 0 if candidates is None else _steps(checked, candidates, workers.count)
    return Estimate(
        tried,
        probe.start,
        build,
        evaluate,
        workers.count,
        candidates,
        None if rounds is None else rounds * each + steps * probe.step,
        finals,
        probe.peak,
        probe.shared,
        probe.shared + workers.on_a_machine * max(0, peak - probe.shared),
        probe.step,
        probe.forms,
        tuple(_assumptions(checked, probe, workers.count)),
    )


def _rounds(checked: CheckedSearch, candidates: int, workers: int) -> int:
    """Return how many candidates a worker scores one after the other.

    Workers that have scored their part of the baselines, or of a generation, wait for the others.
    """
    first = min(candidates, len(checked.space.baselines()))
    searched = candidates - first
    strategy = make_strategy(checked)
    together = searched if checked.config.executor.order == "arrival" else strategy.generation
    whole, rest = divmod(searched, max(1, together))
    parts = [first, *[together] * whole, rest]
    return sum(math.ceil(part / workers) for part in parts)


def _steps(checked: CheckedSearch, candidates: int, workers: int) -> int:
    """Return how many steps of descents a worker makes one after the other."""
    config = checked.config
    if not config.optimizer.descends:
        return 0
    points = max(0, candidates - len(checked.space.baselines()))
    together = min(workers, make_strategy(checked).generation)
    return math.ceil(points / together) * LEG


def _assumptions(checked: CheckedSearch, probe: CostProbe, workers: int) -> Iterator[str]:
    """Yield what the estimate assumes, and what it leaves out."""
    config = checked.config
    tried = len(probe.builds)
    if tried == 1:
        yield "every candidate takes as long as the one that was tried"
    else:
        yield f"candidates take as long on average as the {tried} that were tried"
    yield "a document of any split takes the same time"
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


def try_candidates(checked: CheckedSearch, say: Callable[[str], None]) -> CostProbe:
    """Build and score the candidates that the search would begin with, as its worker does.

    `say` is told of each step when it begins.

    Raises:
        InputError: a parent cannot be loaded.
        SearchError: none of the candidates could be scored.
    """
    config, began = checked.config, time.perf_counter()
    strategy = make_strategy(checked)
    first, *recipes = _first_recipes(checked, strategy)
    neighbours = workers_of(config).on_a_machine
    cores, host = max(1, count_cores() // neighbours), checked.checkpoints[checked.host]
    say("loading the model and the documents")
    worker = make_worker(checked, neighbours, threads_of(config, host, cores), is_new=True)
    say("making the first merge")
    # The first merge computes what later ones keep, and compiles loops; the first documents of a
    # split make its prompts.
    worker.evaluator.try_out(worker.build(first))
    start = time.perf_counter() - began
    jobs = [Job(number, number, recipe) for number, recipe in enumerate(recipes)]
    documents = sum(map(len, checked.splits["search"].values()))
    candidates = "a candidate" if len(jobs) == 1 else f"{len(jobs)} candidates"
    say(f"building {candidates}, and scoring on {documents} documents")
    outcomes = list(map(worker, jobs))
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
    probe = CostProbe(start, build, evaluate, scored[-1].peak, shared)
    if not isinstance(strategy, Descending):
        return probe
    for number, outcome in enumerate(outcomes):
        if not isinstance(outcome, Reached):
            strategy.tell(number, outcome)
    leg = replace(strategy.legs()[0], watched={})

    def walked(leg: Leg) -> Reached:
        result = worker(Job(len(jobs), len(jobs), leg.recipe, leg=leg))
        if isinstance(result, Failure):
            raise SearchError(f"The descent that was tried failed: {result.reason}")
        assert isinstance(result, Reached)
        return result

    say("making a few steps of a descent")
    # The first step finds the forms, and makes what later ones keep.
    forms = walked(replace(leg, batches=leg.batches[:1])).forms
    counts = [min(count, len(leg.batches)) for count in (1, 1 + STEPS_TRIED)]
    legs = [walked(replace(leg, batches=leg.batches[:count], forms=forms)) for count in counts]
    reached = legs[-1]
    return replace(
        probe,
        step=step_seconds(counts, [each.seconds["descend"] for each in legs]),
        forms=forms,
        peak=reached.peak,
    )


def step_seconds(counts: Sequence[int], seconds: Sequence[float]) -> float:
    """Return the time of a step in a leg of `LEG` steps, given that of two shorter legs.

    A leg also takes a time of its own, to find how each gene moves the knobs.
    """
    (few, many), (one, two) = counts, seconds
    if few == many:
        return two / many
    each = max(0.0, two - one) / (many - few)
    return each + max(0.0, one - few * each) / LEG


def _first_recipes(checked: CheckedSearch, strategy: Strategy) -> list[Recipe]:
    """Return the recipe to begin with, and those to try; before a descent these are the parents."""
    space = checked.config.space
    if isinstance(strategy, Descending):
        baselines = checked.space.baselines()
        for number, label in enumerate(baselines):
            strategy.add_baseline(number, label)
        return [next(reversed(baselines.values())), *baselines.values()]
    differ = space.kind != "parameters" or len(space.methods) > 1
    count = 1 + (DIFFERING if differ else 1)
    return [strategy.ask(number).recipe for number in range(count)]
