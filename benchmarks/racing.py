"""Compares races with the scoring of all documents, and of a fixed part of them.

    python benchmarks/racing.py [--quick] [--seeds N] [--first SEED] [--worlds NAME ...]
                                [--policies NAME ...] [--optimizer NAME]

Runs searches with every policy and the same seeds in two settings ("worlds"). A seed
determines the documents, their split and the optimizer:

- `zoo`: real merges of the embedded models (a task-arithmetic weight for every layer), scored on
  400 search documents of `zoo_l2_maths`;
- `simulated`: simulated models whose skill depends on 16 weights, on 400 documents. Each document
  has its own difficulty and prefers some weights, so that a search can overfit to documents.

`replayed zoo` and `replayed simulated` apply every policy to the recorded candidates of searches
that scored all documents, and compute how many documents the policy would have used and which
winner it would have chosen. This removes the noise of searches that propose other candidates. And
as the scores on all documents are known there, it shows how far the estimates of stopped
candidates are from them: their mean difference and their root mean square difference, in points.

As in `evomerge search`, the parents come first and are scored on all documents. A generation is
proposed as a whole, compared with the best candidate at its start, and told to the optimizer at its
end. A finalist with an estimated fitness is scored on all documents (these are counted). The
finalists are scored on 400 validation documents, and the best of them on the test documents. The
table shows the share of search documents used, the share of CPU time, and the test score and its
difference to full scoring in points, with the standard error of the paired difference. The last
line is one JSON object of all these.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from evomerge.config.schema import parse
from evomerge.errors import CandidateError
from evomerge.evaluation.evaluator import Evaluator
from evomerge.evaluation.racing import Race, score_in_race
from evomerge.evaluation.tasks.documents import in_order
from evomerge.evaluation.tasks.functions import ObjectiveFunction
from evomerge.evaluation.tasks.info import MetricInfo, TaskInfo
from evomerge.optimize import create
from evomerge.scores import Objective, Scores, fitness
from evomerge.setup.runs import prepare
from evomerge.setup.worker import make_worker
from evomerge.space.protocol import Gene, Genome

SEARCH, VALIDATION = 400, 400
FINALISTS = 5
SUBSET = 100
REPLAYED = "replayed "
WORLDS = ("simulated", "zoo", f"{REPLAYED}simulated", f"{REPLAYED}zoo")

Rows = list[Scores | None]


@dataclass(frozen=True)
class Policy:
    """How a search chooses the documents that a candidate is scored on.

    Attributes:
        race: seed -> race; None if every candidate is scored on all documents of the
            subset.
        subset: `all` documents, or `fixed`: the same quarter of them for every candidate.
    """

    race: Callable[[int], Race] | None = None
    subset: str = "all"


POLICIES: dict[str, Policy] = {
    "full": Policy(),
    "race 2 %": Policy(lambda seed: Race(0.98, 50, seed)),
    "race 5 %": Policy(lambda seed: Race(0.95, 50, seed)),
    "race 2 %, from 25": Policy(lambda seed: Race(0.98, 25, seed)),
    "race 10 %, from 25": Policy(lambda seed: Race(0.9, 25, seed)),
    "fixed quarter": Policy(subset="fixed"),
}


@dataclass
class World:
    """A setting for searches.

    Attributes:
        evaluator: scores models on the documents.
        objective: the only objective.
        genes: the genes of the space.
        baselines: genomes that every search proposes first.
        build: genome -> model.
        candidates: number of candidates of a search.
        finals: (split, genome) -> fitness on validation or test documents, computed when needed.
    """

    evaluator: Evaluator
    objective: Objective
    genes: Sequence[Gene]
    baselines: Sequence[Genome]
    build: Callable[[Genome], Any]
    candidates: int
    finals: dict[tuple[str, Genome], float] = field(default_factory=dict)

    @property
    def documents(self) -> list[int]:
        """The search documents."""
        return sorted(self.evaluator.splits["search"][self.objective.task])

    def final(self, split: Any, genome: Genome) -> float:
        """Return a candidate's fitness on validation or test documents."""
        if (split, genome) not in self.finals:
            scores = self.evaluator.score(self.build(genome), split)
            self.finals[split, genome] = fitness([self.objective], scores)
        return self.finals[split, genome]


class Proposals:
    """The proposals of a search: the baselines, then those of an optimizer."""

    def __init__(self, world: World, seed: int, optimizer: str = "cma") -> None:
        self.world = world
        self.optimizer = create(optimizer, list(world.genes), seed, budget=world.candidates)
        self.population = self.optimizer.population
        self.open: list[int] = []
        self.values: list[float | None] = []

    def __iter__(self) -> Iterator[list[tuple[Genome, Any]]]:
        """Yield the baselines, then generations: genomes and the builders of their models."""
        asked = 0
        while asked < self.world.candidates:
            if asked == 0:
                size = len(self.world.baselines)
                for genome in self.world.baselines:
                    self.optimizer.enqueue(genome)
            else:
                size = min(self.population - asked % self.population, self.world.candidates - asked)
            trials = [self.optimizer.ask() for _ in range(size)]
            self.open += [trial for trial, _ in trials]
            asked += size
            yield [(genome, partial(self.world.build, genome)) for _, genome in trials]
            if asked % self.population == 0:
                for trial, value in zip(self.open, self.values, strict=True):
                    self.optimizer.tell(trial, None if value is None else (value,))
                self.open, self.values = [], []

    def tell(self, value: float | None) -> None:
        """Tell the fitness of the next candidate; None if it failed."""
        self.values.append(value)


class Recorded:
    """The recorded proposals and scores of a full-scoring search."""

    def __init__(
        self, world: World, genomes: Sequence[Genome], rows: Rows, population: int
    ) -> None:
        self.genomes, self.rows = genomes, rows
        task, key, ids = world.objective.task, world.objective.key, world.documents
        place = {document: at for at, document in enumerate(ids)}
        info = TaskInfo(
            task, "function", len(ids), {world.objective.metric: MetricInfo(True, True)}
        )

        def body(model: Scores, tokenizer: Any, asked: Sequence[int]) -> dict[str, list[float]]:
            return {world.objective.metric: [model.values[key][place[i]] for i in asked]}

        self.evaluator = Evaluator(None, [ObjectiveFunction(body, info)])
        self.evaluator.prepare(None, None, {"search": {task: ids}})
        self.baselines = len(world.baselines)
        self.population = population

    def __iter__(self) -> Iterator[list[tuple[Genome, Any]]]:
        """Yield the baselines, then generations: genomes and their recorded scores."""
        start, stop = 0, self.baselines
        while start < len(self.genomes):
            yield [
                (genome, partial(self.answers, scores))
                for genome, scores in zip(
                    self.genomes[start:stop], self.rows[start:stop], strict=True
                )
            ]
            start, stop = stop, stop + self.population - stop % self.population

    def answers(self, scores: Scores | None) -> Scores | None:
        """Return recorded scores, which are used in place of a model."""
        return scores

    def tell(self, value: float | None) -> None:
        """Do nothing, since the proposals are recorded."""


@dataclass
class Run:
    """The result of a search.

    Attributes:
        share: share of the search documents used, averaged over candidates.
        tested: fitness of the winner on the test documents, in points.
        seconds: CPU time.
        genomes: the genomes of the candidates.
        rows: their scores.
        off: estimated minus true fitness of the stopped candidates, in points, if it is known.
    """

    share: float
    tested: float
    seconds: float
    genomes: list[Genome]
    rows: Rows
    off: list[float] = field(default_factory=list)


def search(world: World, policy: Policy, seed: int, proposals: Proposals | Recorded) -> Run:
    """Run one search as `evomerge search` would."""
    began = time.process_time()
    evaluator = proposals.evaluator if isinstance(proposals, Recorded) else world.evaluator
    race = policy.race(seed) if policy.race else None
    task, ids, objectives = world.objective.task, world.documents, [world.objective]
    genomes: list[Genome] = []
    builds: list[Callable[[], Any]] = []
    rows: Rows = []
    incumbent: Scores | None = None
    spent = 0
    for number, generation in enumerate(proposals):
        known = [scores for scores in rows if scores]
        incumbent_at_start = incumbent
        for genome, build in generation:
            asked = ids
            if policy.subset == "fixed":
                asked = [ids[i] for i in in_order(len(ids), f"{seed}/fixed")[:SUBSET]]
            scores: Scores | None = None
            with contextlib.suppress(CandidateError):
                model = build()
                if model is None:
                    pass
                elif race is None or incumbent_at_start is None or number == 0:
                    scores = evaluator.score(model, "search", {task: asked})
                else:
                    earlier = known[-race.recent :]
                    scores = score_in_race(
                        race,
                        evaluator,
                        model,
                        "search",
                        incumbent_at_start,
                        earlier,
                        objectives,
                    )
            proposals.tell(None if scores is None else fitness(objectives, scores))
            genomes.append(genome)
            builds.append(build)
            rows.append(scores)
            spent += sum(scores.fidelity.values()) if scores else 0
            is_complete = scores is not None and not scores.expected
            if is_complete and (
                incumbent is None or fitness(objectives, scores) > fitness(objectives, incumbent)
            ):
                incumbent = scores
    values = [-math.inf if row is None else fitness(objectives, row) for row in rows]
    whole = [row is not None and not row.expected for row in rows]
    while True:
        finalists = sorted(range(len(values)), key=lambda n: -values[n])[:FINALISTS]
        estimated = next((n for n in finalists if not whole[n]), None)
        if estimated is None:
            break
        scores = evaluator.score(builds[estimated](), "search", {task: ids})
        values[estimated] = fitness(objectives, scores)
        whole[estimated] = True
        spent += len(ids)
    seconds = time.process_time() - began
    winner = max(finalists, key=lambda n: (world.final("validation", genomes[n]), -n))
    tested = 100 * world.final("test", genomes[winner])
    off = []
    if isinstance(proposals, Recorded):
        pairs = zip(rows, proposals.rows, strict=True)
        off = [
            100 * (fitness(objectives, found) - fitness(objectives, true))
            for found, true in pairs
            if found is not None and true is not None and found.expected
        ]
    return Run(spent / (len(genomes) * len(ids)), tested, seconds, genomes, rows, off)


def zoo_world(seed: int, candidates: int) -> World:
    """Return a setting with real merges of the embedded models."""
    text = f"""
    seed: {seed}
    parents: [zoo:language, zoo:maths]
    base: zoo:base
    dtype: float32
    space: {{kind: parameters, method: task_arithmetic, groups: each, embeddings: true,
             knobs: {{weight: [0.0, 2.0]}}}}
    objectives: [{{task: zoo_l2_maths, metric: exact_match}}]
    evaluation: {{include: [zoo:tasks], search: {{documents: {SEARCH}}},
                  validation: {{documents: {VALIDATION}}}, test: {{documents: all}}}}
    budget: {{candidates: {candidates}}}
    """
    problem = prepare(parse(yaml.safe_load(text), "benchmark"), Path.cwd())
    worker, space = make_worker(problem), problem.space
    return World(
        worker.evaluator,
        problem.objectives[0],
        list(space.genes),
        [genomes[0] for genomes in space.baseline_genomes().values()],
        lambda genome: worker.build(space.decode(genome)),
        candidates,
    )


def simulated_world(seed: int, candidates: int) -> World:
    """Return a setting in which models are lists of answers to simulated documents.

    A model answers a document correctly if the model's skill plus the document's preference for the
    model's weights exceeds the document's difficulty.
    """
    dimension, count = 16, SEARCH + VALIDATION + 5000
    rng = np.random.default_rng(seed)
    best = rng.uniform(0.3, 0.7, dimension)
    difficulty = rng.normal(0.0, 1.0, count)
    preference = rng.normal(0.0, 1.0, (count, dimension))
    genes = [Gene(f"w{i}", "real", 0.0, 1.0, 0.5) for i in range(dimension)]

    def build(genome: Genome) -> np.ndarray:
        away = np.asarray(genome) - best
        skill = 1.5 - 6.0 * float(away @ away)
        return (skill + 1.2 * preference @ away > difficulty).astype(float)

    def body(model: np.ndarray, tokenizer: Any, ids: Sequence[int]) -> dict[str, list[float]]:
        return {"acc": model[list(ids)].tolist()}

    info = TaskInfo("simulated", "function", count, {"acc": MetricInfo(True, True)})
    evaluator = Evaluator(None, [ObjectiveFunction(body, info)])
    order = random.Random(seed).sample(range(count), count)
    parts = {
        "search": {"simulated": order[:SEARCH]},
        "validation": {"simulated": order[SEARCH : SEARCH + VALIDATION]},
        "test": {"simulated": order[SEARCH + VALIDATION :]},
    }
    evaluator.prepare(None, None, parts)
    baselines = [(0.1,) * dimension, (0.9,) * dimension, (0.5,) * dimension]
    objective = Objective("simulated", "acc")
    return World(evaluator, objective, genes, baselines, build, candidates)


class Table:
    """The runs of all searches by world and policy."""

    def __init__(self) -> None:
        self.runs: dict[tuple[str, str], list[Run]] = {}

    def add(self, world: str, policy: str, run: Run) -> None:
        self.runs.setdefault((world, policy), []).append(run)

    def show(self, world: str) -> dict[str, float]:
        """Print the averages over seeds for each policy in a world, and return them."""
        ratios: dict[str, float] = {}
        full = self.runs[world, "full"]
        for (name, policy), runs in self.runs.items():
            if name != world:
                continue
            share = statistics.fmean(run.share for run in runs)
            clock = sum(run.seconds for run in runs) / sum(run.seconds for run in full)
            tested = statistics.fmean(run.tested for run in runs)
            pairs = [run.tested - other.tested for run, other in zip(runs, full, strict=True)]
            error = statistics.stdev(pairs) / math.sqrt(len(pairs)) if len(pairs) > 1 else math.nan
            mean = statistics.fmean(pairs)
            same = sum(pair == 0.0 for pair in pairs) / len(pairs)
            off = [value for run in runs for value in run.off]
            print(
                f"{world:19}{policy:23}{share:8.1%}{clock:8.0%}{tested:8.2f}"
                f"{mean:+8.2f} +- {error:4.2f}{same:7.0%}",
                end="" if off else "\n",
            )
            if off:
                squares = math.sqrt(statistics.fmean(value**2 for value in off))
                print(f"{statistics.fmean(off):+8.2f}{squares:8.2f}", flush=True)
                ratios[f"{world} {policy} estimates off"] = round(statistics.fmean(off), 2)
                ratios[f"{world} {policy} estimates rms"] = round(squares, 2)
            ratios[f"{world} {policy} documents"] = round(share, 3)
            ratios[f"{world} {policy} points to full"] = round(mean, 2)
            ratios[f"{world} {policy} standard error"] = round(error, 2)
        return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed, short searches")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--policies", nargs="*", default=list(POLICIES), help="besides `full`")
    parser.add_argument("--worlds", nargs="*", choices=WORLDS, default=WORLDS)
    parser.add_argument("--optimizer", default="cma")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    seeds = range(options.first, options.first + (1 if options.quick else options.seeds))
    policies = [name for name in options.policies if name != "full"]
    worlds: dict[str, Callable[[int], World]] = {
        "simulated": lambda seed: simulated_world(seed, 60 if options.quick else 480),
        "zoo": lambda seed: zoo_world(seed, 24 if options.quick else 240),
    }
    wanted = {name.removeprefix(REPLAYED) for name in options.worlds}
    table, ratios = Table(), {}
    print(
        f"{'world':19}{'policy':23}{'spent':>8}{'time':>8}{'tested':>8}{'to full':>16}{'same':>7}"
        f"{'off':>8}{'rms':>8}"
    )
    for name in [name for name in worlds if name in wanted]:
        for seed in seeds:
            world = worlds[name](seed)
            proposals = Proposals(world, seed, options.optimizer)
            full = search(world, POLICIES["full"], seed, proposals)
            recorded = Recorded(world, full.genomes, full.rows, proposals.population)
            table.add(name, "full", full)
            table.add(REPLAYED + name, "full", full)
            for policy in policies:
                if name in options.worlds:
                    other = Proposals(world, seed, options.optimizer)
                    table.add(name, policy, search(world, POLICIES[policy], seed, other))
                if REPLAYED + name in options.worlds:
                    found = search(world, POLICIES[policy], seed, recorded)
                    table.add(REPLAYED + name, policy, found)
        for shown in (name, REPLAYED + name):
            if shown in options.worlds:
                ratios |= table.show(shown)
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
