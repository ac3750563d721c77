"""How many documents a search needs: all of them, subsets, racing, halving, item response.

    python benchmarks/racing.py [--quick] [--seeds N]

Closed-loop CMA-ES searches, each policy with the same seeds, in two worlds:

- `zoo`: real merges of the embedded family (a task-arithmetic weight for every layer), scored on
  400 search documents of the composition task;
- `simulated`: models whose skill depends on 16 weights, on 400 documents of their own hardness,
  each with its own liking for some weights (so that a search can fit itself to documents).

A search's five best (by what the optimizer was told) are scored on 400 validation documents, the
best of these on the test documents; only search documents are counted as spent. The table gives
the share of documents spent and the tested score in points, beside full scoring with its paired
standard error. The last line is one JSON object of the shares and differences.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from evomerge.build import prepare
from evomerge.config import parse
from evomerge.errors import CandidateError, RecipeError
from evomerge.evaluate.evaluator import Evaluator
from evomerge.evaluate.facts import MetricFacts, TaskFacts
from evomerge.evaluate.functions import Function
from evomerge.evaluate.halving import Halving
from evomerge.evaluate.irt import Items
from evomerge.evaluate.racing import Race
from evomerge.evaluate.subsets import in_order, rotating
from evomerge.optimize import create
from evomerge.scores import Objective, Scores, fitness, paired_fitness
from evomerge.space.genes import Gene

SEARCH, VALIDATION = 400, 400
FINALISTS = 5
SUBSET = 100


@dataclass
class World:
    """Something to search in."""

    name: str
    evaluator: Evaluator
    objective: Objective
    genes: Sequence[Gene]
    landmarks: Sequence[tuple[float, ...]]
    build: Callable[[tuple[float, ...]], Any]
    candidates: int

    @property
    def documents(self) -> dict[str, list[int]]:
        """The search documents by task."""
        task = self.objective.task
        return {task: sorted(self.evaluator.splits["search"][task])}

    def score(self, model: Any, documents: dict[str, list[int]] | None = None) -> Scores:
        """Score a model on search documents."""
        return self.evaluator.score(model, "search", documents)


class Policy:
    """Scores candidates one by one; keeps what it needs of those before."""

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.seed, self.objectives = world, seed, [world.objective]
        self.elite: Scores | None = None
        self.known: list[Scores] = []

    def score(self, model: Any, number: int, generation: int) -> tuple[float, int]:
        """Return what the optimizer is told, and how many documents that took."""
        scores = self.scores(model, generation)
        self.known.append(scores)
        spent = sum(scores.fidelity.values())
        if self.elite is None or spent == sum(self.elite.fidelity.values()):
            value = fitness(self.objectives, scores)
            if self.elite is None or value > fitness(self.objectives, self.elite):
                self.elite = scores
            return value, spent
        return paired_fitness(self.objectives, scores, self.elite), spent

    def scores(self, model: Any, generation: int) -> Scores:
        """Score a model on as many documents as this policy gives it."""
        return self.world.score(model)


class Fixed(Policy):
    """The same quarter of the documents for all."""

    def scores(self, model: Any, generation: int) -> Scores:
        """Score a model on as many documents as this policy gives it."""
        (task, ids), *_ = self.world.documents.items()
        chosen = [ids[i] for i in in_order(len(ids), f"{self.seed}/fixed")[:SUBSET]]
        return self.world.score(model, {task: chosen})


class Rotating(Policy):
    """Another quarter of the documents for every generation."""

    def score(self, model: Any, number: int, generation: int) -> tuple[float, int]:
        """Return what the optimizer is told, and how many documents that took."""
        (task, ids), *_ = self.world.documents.items()
        chosen = rotating(ids, SUBSET, generation, str(self.seed))
        return fitness(self.objectives, self.world.score(model, {task: chosen})), SUBSET


class Racing(Policy):
    """Stopped as soon as it is improbable that it beats the elite."""

    confidence, minimum = 0.98, 50

    def scores(self, model: Any, generation: int) -> Scores:
        """Score a model on as many documents as this policy gives it."""
        if self.elite is None:
            return self.world.score(model)
        race = Race(self.confidence, self.minimum, self.seed)
        return race.run(self.world.evaluator, model, "search", self.elite, self.objectives)


class Racing95(Racing):
    """The same at five per cent."""

    confidence = 0.95


class Racing95Short(Racing):
    """The same at five per cent, after 25 documents."""

    confidence, minimum = 0.95, 25


class Racing90Short(Racing):
    """The same at ten per cent, after 25 documents."""

    confidence, minimum = 0.9, 25


class RotatingRacing(Policy):
    """A generation is ranked on its own quarter; who leads it there is raced against the elite."""

    def __init__(self, world: World, seed: int) -> None:
        super().__init__(world, seed)
        self.turn, self.best = -1, -math.inf

    def score(self, model: Any, number: int, generation: int) -> tuple[float, int]:
        """Return what the optimizer is told, and how many documents that took."""
        (task, ids), *_ = self.world.documents.items()
        chosen = rotating(ids, SUBSET, generation, str(self.seed))
        value = fitness(self.objectives, self.world.score(model, {task: chosen}))
        if generation != self.turn:
            self.turn, self.best = generation, -math.inf
        if value <= self.best:
            return value, SUBSET
        self.best = value
        race = Race(0.98, minimum=50, seed=self.seed)
        if self.elite is None:
            full = self.world.score(model)
        else:
            full = race.run(self.world.evaluator, model, "search", self.elite, self.objectives)
        spent = sum(full.fidelity.values())
        if self.elite is None or (
            spent == SEARCH
            and fitness(self.objectives, full) > fitness(self.objectives, self.elite)
        ):
            self.elite = full
        self.finals.append((number, full, spent == SEARCH))
        return value, SUBSET + spent

    finals: list[tuple[int, Scores, bool]]

    def finalists(self, told: Sequence[float]) -> list[int]:
        """Return the best of those that won their race."""
        complete = [(fitness(self.objectives, s), n) for n, s, whole in self.finals if whole]
        return [number for _, number in sorted(complete, reverse=True)[:FINALISTS]]


class Halves(Policy):
    """Successive halving from 50 documents, among the latest candidates."""

    recent = 20

    def scores(self, model: Any, generation: int) -> Scores:
        """Score a model on as many documents as this policy gives it."""
        halving = Halving(first=50, eta=2.0, seed=self.seed)
        return halving.run(
            self.world.evaluator,
            model,
            "search",
            self.world.documents,
            self.known[-self.recent :],
            self.objectives,
        )


class Responses(Policy):
    """Full scores for the first 20; then 40 informative documents and a prediction.

    Who is predicted within an error of the best is scored on all documents, and the items are
    fitted anew on the latest that were.
    """

    calibration, asked, latest = 20, 40, 60

    def score(self, model: Any, number: int, generation: int) -> tuple[float, int]:
        """Return what the optimizer is told, and how many documents that took."""
        (task, ids), *_ = self.world.documents.items()
        key = self.world.objective.key
        if number < self.calibration:
            self.known.append(self.world.score(model))
            return fitness(self.objectives, self.known[-1]), SEARCH
        if number == self.calibration:
            self.fit()
        scores = self.world.score(model, {task: [ids[i] for i in self.chosen]})
        predicted = self.items.predict(self.chosen, scores.values[key])
        best = max(fitness(self.objectives, known) for known in self.known)
        if predicted.score + predicted.error < best:
            return predicted.score, self.asked
        self.known.append(self.world.score(model))
        self.fit()
        return fitness(self.objectives, self.known[-1]), SEARCH

    def fit(self) -> None:
        """Fit the items and choose the most informative ones."""
        key = self.world.objective.key
        self.items = Items.fit([scores.values[key] for scores in self.known[-self.latest :]])
        self.chosen = self.items.choose(self.asked)


POLICIES: dict[str, type[Policy]] = {
    "full": Policy,
    "fixed quarter": Fixed,
    "rotating quarter": Rotating,
    "race 2 %": Racing,
    "race 5 %": Racing95,
    "race 5 %, 25": Racing95Short,
    "race 10 %, 25": Racing90Short,
    "rotating + race": RotatingRacing,
    "halving": Halves,
    "irt": Responses,
}


def search(world: World, kind: type[Policy], seed: int) -> tuple[float, float]:
    """Run one search; return the share of documents spent and the tested score in points."""
    policy = kind(world, seed)
    if isinstance(policy, RotatingRacing):
        policy.finals = []
    optimizer = create("cma", list(world.genes), seed, budget=world.candidates)
    genomes: list[tuple[float, ...]] = []
    told: list[float] = []
    spent = 0
    for number in range(world.candidates):
        if number < len(world.landmarks):
            optimizer.suggest(world.landmarks[number])
        trial, genome = optimizer.ask()
        try:
            generation = number // optimizer.population
            value, documents = policy.score(world.build(genome), number, generation)
        except CandidateError:
            optimizer.tell(trial, None)
            value, documents = -math.inf, 0
        else:
            optimizer.tell(trial, (value,))
        genomes.append(genome)
        told.append(value)
        spent += documents
    if isinstance(policy, RotatingRacing):
        finalists = policy.finalists(told)
    else:
        finalists = sorted(range(len(told)), key=lambda n: -told[n])[:FINALISTS]
    validated = [
        (
            fitness(
                [world.objective], world.evaluator.score(world.build(genomes[n]), "validation")
            ),
            n,
        )
        for n in finalists
    ]
    winner = world.build(genomes[max(validated)[1]])
    tested = fitness([world.objective], world.evaluator.score(winner, "test"))
    return spent / (world.candidates * SEARCH), 100 * tested


def zoo_world(candidates: int) -> World:
    text = f"""
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
    setup = prepare(parse(yaml.safe_load(text), "benchmark"), Path.cwd())
    worker = setup.worker()
    space = setup.space
    landmarks = []
    for recipe in space.landmarks().values():
        with contextlib.suppress(RecipeError):  # the uniform merge is of another method
            landmarks.append(space.encode(recipe))
    return World(
        "zoo",
        worker.evaluator,
        setup.objectives[0],
        list(space.genes),
        landmarks,
        lambda genome: worker.builder.apply(space.decode(genome)),
        candidates,
    )


def simulated_world(candidates: int) -> World:
    """Models that are lists of answers: right where skill and liking exceed the hardness."""
    dimension, count = 16, SEARCH + VALIDATION + 5000
    rng = np.random.default_rng(0)
    best = rng.uniform(0.3, 0.7, dimension)
    hardness = rng.normal(0.0, 1.0, count)
    liking = rng.normal(0.0, 1.0, (count, dimension))
    genes = [Gene(f"w{i}", "real", 0.0, 1.0, 0.5) for i in range(dimension)]

    def build(genome: tuple[float, ...]) -> np.ndarray:
        away = np.asarray(genome) - best
        skill = 1.5 - 6.0 * float(away @ away)
        return (skill + 1.2 * liking @ away > hardness).astype(float)

    def body(model: np.ndarray, tokenizer: Any, ids: Sequence[int]) -> dict[str, list[float]]:
        return {"acc": model[list(ids)].tolist()}

    facts = TaskFacts("simulated", "function", count, {"acc": MetricFacts(True, True)})
    evaluator = Evaluator(None, [Function(body, facts)])
    order = random.Random(0).sample(range(count), count)
    parts = {
        "search": {"simulated": order[:SEARCH]},
        "validation": {"simulated": order[SEARCH : SEARCH + VALIDATION]},
        "test": {"simulated": order[SEARCH + VALIDATION :]},
    }
    evaluator.prepare(None, None, parts)
    landmarks = [(0.1,) * dimension, (0.9,) * dimension, (0.5,) * dimension]
    objective = Objective("simulated", "acc")
    return World("simulated", evaluator, objective, genes, landmarks, build, candidates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two seeds, short searches")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--policies", nargs="*", default=list(POLICIES), help="`full` first")
    parser.add_argument("--worlds", nargs="*", default=["simulated", "zoo"])
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    seeds = range(2 if options.quick else options.seeds)
    worlds = {
        "simulated": lambda: simulated_world(100 if options.quick else 480),
        "zoo": lambda: zoo_world(40 if options.quick else 200),
    }
    ratios: dict[str, float] = {}
    print(f"{'world':12}{'policy':20}{'documents':>10}{'tested':>10}{'to full':>18}")
    for name in options.worlds:
        world = worlds[name]()
        full: list[float] = []
        for policy in options.policies:
            runs = [search(world, POLICIES[policy], seed) for seed in seeds]
            share = statistics.fmean(share for share, _ in runs)
            tested = [score for _, score in runs]
            full = full or tested
            differences = [one - other for one, other in zip(tested, full, strict=True)]
            mean = statistics.fmean(differences)
            error = statistics.stdev(differences) / math.sqrt(len(differences))
            print(
                f"{name:12}{policy:20}{share:10.1%}{statistics.fmean(tested):10.2f}"
                f"{mean:+10.2f} +- {error:4.2f}",
                flush=True,
            )
            ratios[f"{name} {policy} documents"] = round(share, 3)
            ratios[f"{name} {policy} points to full"] = round(mean, 2)
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
