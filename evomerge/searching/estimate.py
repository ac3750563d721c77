"""What a search costs: its time and memory, from a candidate that is built and scored for real."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import psutil

from evomerge.config.optimizer import with_fewer_candidates
from evomerge.device import count_cores
from evomerge.errors import EvomergeError, SearchError
from evomerge.evaluation.inference.rows import Forms, forms_in_words
from evomerge.evaluation.objectives import kinds_of, load
from evomerge.execute.protocol import Job, WorkResult
from evomerge.problem.documents import fresh_documents, search_by_fresh_documents
from evomerge.problem.parents_as_themselves import base_to_test, prompt_template
from evomerge.problem.problem import Problem, threads_of
from evomerge.recipe import Recipe
from evomerge.run.ranking import FINALISTS
from evomerge.scores import Failure, Scores, Split, fitness
from evomerge.strategy.protocol import Preparing
from evomerge.words import duration, fine_duration, size_text

if TYPE_CHECKING:
    from evomerge.config.schema import SearchConfig
    from evomerge.execute.worker import Worker

_TRIED = 16  # documents of each task at most that show what a chat template does


@dataclass(frozen=True, kw_only=True)
class CostProbe:
    """What a candidate costs that was built and scored on all search documents, on this machine."""

    start_seconds: float  # until a worker is ready: it loads models and prompts, and merges once
    build_seconds: float
    evaluate_seconds: float  # on all search documents
    documents: int  # number of all search documents
    part: int = 0  # number of some of them that it was scored on, too: of a generation, if fresh
    part_seconds: float = 0.0  # for these
    is_fresh: bool = False  # whether the other candidates are scored on such a part only
    peak_bytes: Mapping[str, int]  # see `Scores.peak`
    shared_bytes: int  # of `peak_bytes`, of mapped files, which all workers of a machine share
    step_seconds: float = 0.0  # of a descent, or of one that could be made
    forms: Forms = field(default_factory=dict)  # in which a descent learns answers
    chat_template: Mapping[str, float] = field(default_factory=dict)  # see `_by_template`

    @property
    def candidate_seconds(self) -> float:
        """Seconds to build it and to score it on the documents of a candidate."""
        return self.build_seconds + (self.part_seconds if self.is_fresh else self.evaluate_seconds)

    @property
    def document_seconds(self) -> float:
        """Seconds that each document adds."""
        if not self.part:
            return self.evaluate_seconds / self.documents
        more = (self.evaluate_seconds - self.part_seconds) / (self.documents - self.part)
        return min(max(0.0, more), self.evaluate_seconds / self.documents)

    @property
    def before_seconds(self) -> float:
        """Seconds before the first document, the merge not included."""
        return self.evaluate_seconds - self.documents * self.document_seconds

    def seconds_for(self, documents: int) -> float:
        """Return the seconds to build it and to score it on so many documents."""
        return self.build_seconds + self.before_seconds + documents * self.document_seconds


@dataclass(frozen=True, kw_only=True)
class Estimate(CostProbe):
    """What a search costs if each candidate costs what the tried one did.

    Without a bound of candidates or hours, `candidates`, `search_seconds` and `hours` are None.
    """

    workers: int
    candidates: int | None  # baselines included
    search_seconds: float | None
    final_seconds: float  # for the scores on validation and test documents
    hours: float | None  # of the whole search
    by_gradients: Estimate | None  # of the same search by gradients, where these suit it better
    by_fresh: Estimate | None  # of the same search by fresh documents, where these suit it
    machine_bytes: int  # of the workers of one machine together
    settings: str = ""  # of `by_fresh`: what to set in the search file for such a search
    assumes: str = (
        "every candidate and document takes as long as the one that was tried, the optimizer no "
        "time, workers neither wait nor slow each other down, and nothing ends the search early"
    )

    def to_dict(self) -> dict[str, Any]:
        """Return the estimate as plain JSON values: seconds, hours and bytes."""
        return {**asdict(self), "candidate_seconds": self.candidate_seconds}

    def in_words(self) -> dict[str, str]:
        """Return the estimate for people: name -> text."""
        score = fine_duration(self.candidate_seconds - self.build_seconds)
        build = fine_duration(self.build_seconds)
        each = fine_duration(self.candidate_seconds)
        words = {"one candidate": f"{each} ({build} to merge, {score} to score)"}
        if self.part:
            first, one = fine_duration(self.before_seconds), fine_duration(self.document_seconds)
            words["one document"] = f"{one}; {first} before the first one of a candidate"
        if self.step_seconds and self.by_gradients is None:
            words["one step of a descent"] = fine_duration(self.step_seconds)
        if self.forms:
            words["answers are learned"] = forms_in_words(self.forms)
        if self.search_seconds is not None and self.hours is not None:
            words["whole search"] = (
                f"about {duration(3600 * self.hours)}: {fine_duration(self.start_seconds)} to "
                f"start, {duration(self.search_seconds)} for {self.candidates} candidates, "
                f"{fine_duration(self.final_seconds)} for the final scores"
            )
        if (other := self.by_gradients) is not None and other.hours is not None:
            words["by gradients"] = (
                f"about {duration(3600 * other.hours)} for {other.candidates} candidates "
                "(`optimizer: {name: gradient}`)"
            )
        if (other := self.by_fresh) is not None and other.hours is not None:
            words["by fresh documents"] = (
                f"about {duration(3600 * other.hours)} for {other.candidates} candidates "
                f"({other.settings})"
            )
        if self.chat_template:
            words["chat template"] = (
                " and ".join(f"{value:.3g} {way} it" for way, value in self.chat_template.items())
                + f" for the best baseline on up to {_TRIED} documents a task"
                " (`evaluation.chat_template`)"
            )
            best = max(self.chat_template, key=self.chat_template.__getitem__)
            if len({*self.chat_template.values()}) > 1:
                words["chat template"] += f"; best is {str(best == 'with').lower()}"
            else:
                show = "`evomerge evaluate MODEL --config FILE --show 3`"
                words["chat template"] += f"; this decides nothing, so look at answers by {show}"
        parts = (f"{size_text(size)} of the {name}" for name, size in self.peak_bytes.items())
        words["memory of a worker"] = ", ".join(parts)
        words["memory of a machine"] = f"about {size_text(self.machine_bytes)}"
        return {**words, "assumed": self.assumes}


def estimate(problem: Problem, probe: CostProbe) -> Estimate:
    """Return what a search costs if each of its candidates costs what the tried one did."""
    config = problem.config
    workers = config.executor.count_workers(config.evaluation)
    other = with_fewer_candidates(problem)
    by_gradients = estimate(other, probe) if other and probe.step_seconds else None
    by_fresh, other = None, search_by_fresh_documents(problem)
    if other is not None and probe.part and (fresh := fresh_documents(other)) is not None:
        some = sum(map(len, fresh.sample(0, fresh.count).values()))
        seconds = probe.seconds_for(some) - probe.build_seconds
        cheaper = replace(probe, part=some, part_seconds=seconds, is_fresh=True)
        if 2 * some < probe.documents:
            by_fresh = replace(estimate(other, cheaper), settings=_settings(other.config))
    count, baselines = workers.count, len(problem.space.baselines())
    budget, each, search = config.budget, probe.candidate_seconds, None
    whole = probe.seconds_for(probe.documents)
    candidates, generation = budget.candidates, config.optimizer.make(problem).generation
    size = count if config.executor.order == "arrival" else generation  # asked for together
    rounds = math.ceil(size / count)
    if (own := fresh_documents(problem)) is not None:  # with a share of the mean
        each += whole / (own.generations_to_mean(generation) * rounds)
    if budget.hours is not None:
        before = probe.start_seconds + (whole - each) * baselines / count
        in_time = int(max(0.0, 3600 * budget.hours - before) / each) * size // rounds
        candidates = in_time if candidates is None else min(candidates, in_time)
    if candidates is not None:
        rounds = math.ceil(max(0, candidates - baselines) * rounds / size)
        search = whole * math.ceil(min(candidates, baselines) / count) + each * rounds
        search += probe.step_seconds * config.optimizer.steps_each * rounds
    finalists, has_front = config.evaluation.validation.finalists, problem.ranking.has_front
    if finalists is None:  # a front of 60 candidates by `gp` had ten
        finalists = max(generation, 2 * FINALISTS) if has_front else FINALISTS
    documents = {split: sum(map(len, of.values())) for split, of in problem.splits.items()}
    finals, most = 0.0, math.inf if candidates is None else candidates
    scored: dict[Split, float] = {
        "validation": min(finalists + baselines, most),
        "test": min((finalists if has_front else 1) + baselines, most) + len(base_to_test(problem)),
    }
    for split, models in scored.items():
        finals += math.ceil(models / count) * probe.seconds_for(documents[split])
    of_a_worker = max(0, probe.peak_bytes["process"] - probe.shared_bytes)
    return Estimate(
        **vars(probe),
        workers=count,
        candidates=candidates,
        search_seconds=search,
        final_seconds=finals,
        hours=None if search is None else (probe.start_seconds + search + finals) / 3600,
        by_gradients=by_gradients,
        by_fresh=by_fresh,
        machine_bytes=probe.shared_bytes + workers.on_a_machine * of_a_worker,
    )


def _settings(config: SearchConfig) -> str:
    """Return the settings of a search by fresh documents, for a person."""
    fresh, candidates = config.evaluation.search.fresh, config.budget.candidates
    settings = {
        "optimizer.name": config.optimizer.name,
        "executor.order": "generation",
        "evaluation.search.fresh": fresh,
    }
    if candidates is not None:
        settings["budget.candidates"] = candidates
    return ", ".join(f"`{key}: {value}`" for key, value in settings.items())


def try_candidate(problem: Problem, say: Callable[[str], None]) -> CostProbe:
    """Build and score the candidate that the search would begin with, as its worker does.

    Where candidates come from descents, the first steps of one are made, too; where they could, two
    steps. `say` is told of each part when it begins.
    InputError: a parent cannot be loaded; SearchError: the candidate could not be scored, or the
    steps not be made.
    """
    from evomerge.execute.worker import Worker

    config, began = problem.config, time.perf_counter()
    neighbours = config.executor.count_workers(config.evaluation).on_a_machine
    cores, host = max(1, count_cores() // neighbours), problem.checkpoints[problem.host]
    say("loading the model and the documents")
    threads = threads_of(config, host, cores)
    worker = Worker(problem, neighbours=neighbours, threads=threads, is_new=True)
    strategy, baselines = config.optimizer.make(problem), problem.space.baselines()
    if isinstance(strategy, Preparing):  # its work may depend on all baselines
        first, recipes = next(reversed(baselines.values())), list(baselines.values())
    else:
        first, recipes = strategy.ask(0)[0], [strategy.ask(1)[0]]
    # The first merge computes what later ones keep, and compiles loops; the first documents of a
    # split make its prompts.
    worker.evaluator.try_out(worker.build(first))
    start = time.perf_counter() - began
    say("building and scoring a candidate on all search documents")
    outcomes = [worker(Job(number, recipe)) for number, recipe in enumerate(recipes)]
    tried = outcomes[-1]
    if not isinstance(tried, Scores):
        assert isinstance(tried, Failure)
        raise SearchError(f"The candidate that was tried failed in {tried.stage!r}: {tried.reason}")
    probe = CostProbe(
        start_seconds=start,
        build_seconds=tried.seconds["prepare"] + tried.seconds["merge"],
        evaluate_seconds=tried.seconds["evaluate"],
        documents=sum(tried.fidelity.values()),
        peak_bytes=tried.peak,
        shared_bytes=int(getattr(psutil.Process().memory_info(), "shared", 0)),  # known on Linux
    )
    probe = _with_part(probe, problem, worker, recipes[-1])
    are_tried = config.mode == "weighted" and not config.evaluation.engine.is_separate
    if are_tried and prompt_template(problem) is not None:
        say("scoring the baselines on a few documents with chat template and without")
        with suppress(EvomergeError):  # the search may be valid with one of both only
            probe = replace(probe, chat_template=_by_template(problem, worker))
    if isinstance(strategy, Preparing):
        for number, (label, outcome) in enumerate(zip(baselines, outcomes, strict=True)):
            strategy.add_baseline(number, label)
            assert not isinstance(outcome, WorkResult)
            strategy.tell(number, outcome)
        say("making the first steps of a descent")
        return replace(probe, **strategy.preparations()[0].cost(worker))
    if (other := with_fewer_candidates(problem)) is not None:
        say("making a step by gradients")
        work = other.config.optimizer.make(other).preparations()[0]
        with suppress(SearchError):  # the search itself takes no steps
            return replace(probe, step_seconds=work.cost(worker, steps=1)["step_seconds"])
    return probe


def _with_part(probe: CostProbe, problem: Problem, worker: Worker, recipe: Recipe) -> CostProbe:
    """Return what was measured with the time on some documents: those of a generation, if fresh."""
    documents, fresh = problem.splits["search"], fresh_documents(problem)
    quarter = {task: ids[: -(-len(ids) // 4)] for task, ids in documents.items()}
    few = quarter if fresh is None else fresh.sample(0, fresh.count)
    count = sum(map(len, few.values()))
    is_divisible = all(kind.is_divisible for kind in kinds_of(problem.config))
    if not is_divisible or count == probe.documents:
        return probe
    outcome = worker(Job(1, recipe, documents=few))
    if not isinstance(outcome, Scores):
        return probe
    seconds, is_fresh = outcome.seconds["evaluate"], fresh is not None
    return replace(probe, part=count, part_seconds=seconds, is_fresh=is_fresh)


def _by_template(problem: Problem, worker: Worker) -> dict[str, float]:
    """Return the best fitness of the baselines on a few documents, with chat template and without.

    The uniform merge counts, too: each parent may lack a skill that the tasks need.
    """
    values, baselines = dict[str, float](), problem.space.baselines()
    few = {task: ids[:_TRIED] for task, ids in problem.splits["search"].items()}
    for way, is_on in (("with", True), ("without", False)):
        evaluator = worker.evaluator
        if is_on != problem.config.evaluation.chat_template:
            config = problem.config.with_values("evaluation", chat_template=is_on)
            evaluator, first = load(config, problem.allowed), next(iter(baselines.values()))
            evaluator.prepare(worker.build(first), worker.evaluator.tokenizer, {"search": few})
        models = (worker.build(item) for item in baselines.values())
        scores = (evaluator.score(model, "search", few) for model in models)
        values[way] = max(fitness(problem.objectives, item) for item in scores)
    return values
