"""Compares races with the scoring of all documents, and of a fixed part of them.

    python benchmarks/racing.py [--quick] [--seeds N] [--first SEED] [--optimizer NAME]
                                [--candidates N] [--documents N] [--worlds NAME ...]
                                [--policies NAME ...]

Runs searches with every policy and the same seeds in three settings ("worlds"). A seed
determines the documents, their split and the optimizer:

- `zoo`: real merges of the embedded models (a task-arithmetic weight for every layer), scored on
  search documents of `zoo_l2_maths`;
- `weights 8`: the same with two groups of layers, the space of benchmarks/optimizers.py;
- `simulated`: simulated models whose skill depends on 16 weights. Each document has its own
  difficulty and prefers some weights, so that a search can overfit to documents.

As in `evomerge search`, the parents come first and are scored on all documents. A generation is
proposed as a whole, compared with the best candidate at its start, and told to the optimizer at its
end. A finalist with an estimated fitness is scored on all documents (these are counted). The
finalists are scored on 400 validation documents, and the best of them on the test documents. The
table shows the share of search documents used, and the test score and its difference to full
scoring in points, with the standard error of the paired difference. The last line is one JSON
object of all these. `benchmarks/race_time.py` measures time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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

VALIDATION = 400
FINALISTS = 5
WORLDS = ("simulated", "zoo", "weights 8")

Rows = list[Scores | None]


FIXED = {"fixed quarter": 4, "fixed half": 2}
POLICIES: dict[str, float | None] = {
    "full": None,
    "race": 0.8,
    "race 0.95": 0.95,
    **dict.fromkeys(FIXED),
}
"""Name -> confidence of the race; None: every candidate is scored on all documents, or on the same
part of them."""


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


Run = tuple[float, float]
"""Share of the search documents used, averaged over candidates; test fitness of the winner, in
points."""


def search(world: World, policy: str, seed: int, name: str) -> Run:
    """Run one search as `evomerge search` would."""
    confidence = POLICIES[policy]
    race = None if confidence is None else Race(confidence, seed=seed)
    task, ids, objectives = world.objective.task, world.documents, [world.objective]
    asked = ids
    if policy in FIXED:
        asked = [ids[i] for i in in_order(len(ids), f"{seed}/fixed")[: len(ids) // FIXED[policy]]]
    optimizer = create(name, list(world.genes), seed, budget=world.candidates)
    genomes: list[Genome] = []
    rows: Rows = []
    baselines = list(world.baselines)
    pending: list[tuple[Genome, tuple[float] | None]] = []
    incumbent: Scores | None = None
    spent, size = 0, len(world.baselines)
    while size:
        known, best = len(rows), incumbent
        for _ in range(size):
            genome = baselines.pop(0) if baselines else optimizer.ask()
            scores: Scores | None = None
            with contextlib.suppress(CandidateError):
                model = world.build(genome)
                if race is None or best is None:
                    scores = world.evaluator.score(model, "search", {task: asked})
                else:
                    about = (model, "search", best, known, objectives)
                    scores = score_in_race(race, world.evaluator, *about)
            pending.append((genome, None if scores is None else (fitness(objectives, scores),)))
            genomes.append(genome)
            rows.append(scores)
            spent += sum(scores.fidelity.values()) if scores else 0
            is_complete = scores is not None and not scores.expected
            if is_complete and (
                incumbent is None or fitness(objectives, scores) > fitness(objectives, incumbent)
            ):
                incumbent = scores
        filled = len(rows) % optimizer.population
        if not filled:
            for genome, value in pending:
                optimizer.tell(genome, value)
            pending = []
        size = min(optimizer.population - filled, world.candidates - len(rows))
    values = [-math.inf if row is None else fitness(objectives, row) for row in rows]
    whole = [row is not None and not row.expected for row in rows]
    while True:
        finalists = sorted(range(len(values)), key=lambda n: -values[n])[:FINALISTS]
        estimated = next((n for n in finalists if not whole[n]), None)
        if estimated is None:
            break
        scores = world.evaluator.score(world.build(genomes[estimated]), "search", {task: ids})
        values[estimated] = fitness(objectives, scores)
        whole[estimated] = True
        spent += len(ids)
    winner = max(finalists, key=lambda n: (world.final("validation", genomes[n]), -n))
    tested = 100 * world.final("test", genomes[winner])
    return spent / (len(genomes) * len(ids)), tested


def zoo_world(seed: int, candidates: int, documents: int, groups: int | str) -> World:
    """Return a setting with real merges of the embedded models."""
    text = f"""
    seed: {seed}
    parents: [zoo:language, zoo:maths]
    base: zoo:base
    dtype: float32
    space: {{kind: parameters, method: task_arithmetic, groups: {groups}, embeddings: true,
             knobs: {{weight: [0.0, 2.0]}}}}
    objectives: [{{task: zoo_l2_maths, metric: exact_match}}]
    evaluation: {{include: [zoo:tasks], search: {{documents: {documents}}},
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


def simulated_world(seed: int, candidates: int, documents: int) -> World:
    """Return a setting in which models are lists of answers to simulated documents.

    A model answers a document correctly if the model's skill plus the document's preference for the
    model's weights exceeds the document's difficulty.
    """
    dimension, count = 16, documents + VALIDATION + 5000
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
    evaluator = Evaluator([ObjectiveFunction(body, info)])
    order = random.Random(seed).sample(range(count), count)
    parts = {
        "search": {"simulated": order[:documents]},
        "validation": {"simulated": order[documents : documents + VALIDATION]},
        "test": {"simulated": order[documents + VALIDATION :]},
    }
    evaluator.prepare(None, None, parts)
    baselines = [(0.1,) * dimension, (0.9,) * dimension, (0.5,) * dimension]
    objective = Objective("simulated", "acc")
    return World(evaluator, objective, genes, baselines, build, candidates)


def show(world: str, runs: dict[str, list[Run]]) -> dict[str, float]:
    """Print the averages over seeds for each policy in a world, and return them."""
    ratios: dict[str, float] = {}
    for policy, found in runs.items():
        share, tested = map(statistics.fmean, zip(*found, strict=True))
        pairs = [one - other for (_, one), (_, other) in zip(found, runs["full"], strict=True)]
        error = statistics.stdev(pairs) / math.sqrt(len(pairs)) if len(pairs) > 1 else math.nan
        mean = statistics.fmean(pairs)
        print(f"{world:12}{policy:23}{share:8.1%}{tested:8.2f}{mean:+8.2f} +- {error:4.2f}")
        ratios[f"{world} {policy} documents"] = round(share, 3)
        ratios[f"{world} {policy} points to full"] = round(mean, 2)
        if len(pairs) > 1:
            ratios[f"{world} {policy} standard error"] = round(error, 2)
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed, short searches")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--optimizer", default="cma")
    parser.add_argument("--candidates", type=int, help="of each search; else 480 and 240")
    parser.add_argument("--documents", type=int, default=400, help="search documents")
    parser.add_argument("--policies", nargs="*", choices=POLICIES, default=list(POLICIES))
    parser.add_argument("--worlds", nargs="*", choices=WORLDS, default=WORLDS)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    seeds = range(options.first, options.first + (1 if options.quick else options.seeds))
    few = options.candidates or (24 if options.quick else 240)
    worlds: dict[str, Callable[[int], World]] = {
        "simulated": lambda seed: simulated_world(
            seed, options.candidates or (60 if options.quick else 480), options.documents
        ),
        "zoo": lambda seed: zoo_world(seed, few, options.documents, "each"),
        "weights 8": lambda seed: zoo_world(seed, few, options.documents, 2),
    }
    ratios: dict[str, float] = {}
    print(f"{'world':12}{'policy':23}{'spent':>8}{'tested':>8}{'to full':>16}")
    for name in options.worlds:
        runs: dict[str, list[Run]] = {}
        for seed in seeds:
            world = worlds[name](seed)
            for policy in dict.fromkeys(["full", *options.policies]):
                found = search(world, policy, seed, options.optimizer)
                runs.setdefault(policy, []).append(found)
        ratios |= show(name, runs)
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
