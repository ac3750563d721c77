"""A search whose generations are each scored on fresh documents, as minibatches in training.

CMA-ES compares candidates within a generation only. So each generation may have a random sample of
a pool of documents, the same one for all its candidates, and no sample can be overfitted.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np

from choosing.plans import Plan
from choosing.searches import Search
from choosing.worlds import Documents, Marks, World
from evomerge.optimize import create
from evomerge.optimize.protocol import Believing, Optimizer
from evomerge.space.protocol import Genome

SIGNAL = 2.0
"""The largest ratio of a generation's differences to its noise at which its sample is too small:
the variance between candidates is at most that of their means. It is the test of Byrd, Chin,
Nocedal & Wu (2012, Mathematical Programming 134) on scores in the place of gradients."""


def search_fresh(world: World, plan: Plan, candidates: int, seed: int) -> Search:
    """Search once; parents, their average and believed genomes are scored on the whole pool.

    The optimizer is told the values of the parents on the documents of the first generation, and
    none of believed genomes.

    Args:
        world: its search documents are the pool.
        plan: has `fresh`.
        candidates: largest number, baselines and believed genomes included.
        seed: of the optimizer and the samples.
    """
    began = time.process_time()
    assert plan.documents is not None
    run = _Run(world, began)
    pool, sampler = world.evaluator.splits["search"], random.Random(seed)
    optimizer = create(plan.optimizer, world.space.genes, seed, plan.population, is_fresh=True)
    assert isinstance(optimizer, Believing)
    starts = [list(genomes) for genomes in world.space.baseline_genomes().values() if genomes]
    known = [(genomes, run.score(genomes[0], pool, None)) for genomes in starts]
    size, weak, generation = plan.documents, 0, 0
    while len(run.genomes) + optimizer.population <= candidates:
        sample = draw(pool, size, sampler)
        if not generation:
            for genomes, marks in known:
                for genome in genomes:
                    _tell(optimizer, genome, marks, sample)
        generation += 1
        asked = [optimizer.ask() for _ in range(optimizer.population)]
        scored = [run.score(genome, sample, generation) for genome in asked]
        for genome, marks in zip(asked, scored, strict=True):
            _tell(optimizer, genome, marks, sample)
        if plan.patience and size < plan.pool:
            weak = weak + 1 if signal(scored) <= SIGNAL else 0
            if weak == plan.patience:
                size, weak = min(2 * size, plan.pool), 0
        if generation % plan.every == 0 and len(run.genomes) < candidates:
            run.score(optimizer.believed(), pool, None)
    return run.search(len(starts))


def draw(pool: Documents, size: int, sampler: random.Random) -> dict[str, tuple[int, ...]]:
    """Return so many random documents of a pool, of all tasks together, equally many of each."""
    each = size // len(pool)
    return {
        task: tuple(sorted(sampler.sample(sorted(ids), min(each, len(ids)))))
        for task, ids in pool.items()
    }


def value(marks: Marks, documents: Documents) -> float:
    """Return the fitness on some of the scored documents: the mean of the means of tasks."""
    return fmean(fmean(marks[task][one] for one in ids) for task, ids in documents.items())


def signal(generation: Sequence[Marks | None]) -> float:
    """Return the variance between candidates over what noise alone would make of it.

    It is the F of a two-way table, candidates by documents: the documents are the same for all, so
    how hard they are is no noise. 0: there are no differences.
    """
    known = [marks for marks in generation if marks is not None]
    table = np.array([[mark for task in one.values() for mark in task.values()] for one in known])
    rows, columns = table.shape if len(known) > 1 else (1, 1)
    if min(rows, columns) < 2:
        return 0.0
    own = table.mean(axis=1, keepdims=True)
    rest = table - own - table.mean(axis=0) + table.mean()
    noise = float((rest**2).sum()) / ((rows - 1) * (columns - 1))
    between = columns * float(own.var(ddof=1))
    return between / noise if noise > 0 else 0.0


def _tell(optimizer: Optimizer, genome: Genome, marks: Marks | None, on: Documents) -> None:
    optimizer.tell(genome, None if marks is None else [value(marks, on)])


class _Run:
    """What a search has scored so far."""

    def __init__(self, world: World, began: float) -> None:
        self.world, self.began, self.scoring = world, began, 0.0
        self.genomes: list[Genome] = []
        self.values: list[float | None] = []
        self.clock: list[float] = []
        self.documents: list[int] = []
        self.generations: list[int | None] = []

    def score(
        self, genome: Genome, documents: Mapping[str, Sequence[int]], generation: int | None
    ) -> Marks | None:
        """Score a candidate of a generation; None: one on the whole pool."""
        asked = time.process_time()
        marks = self.world.marks(genome, documents)
        self.scoring += time.process_time() - asked
        self.genomes.append(genome)
        self.values.append(None if marks is None else value(marks, documents))
        self.clock.append(time.process_time() - self.began)
        self.documents.append(sum(map(len, documents.values())))
        self.generations.append(generation)
        return marks

    def search(self, baselines: int) -> Search:
        """Return the whole search."""
        own = time.process_time() - self.began - self.scoring
        return Search(
            self.genomes,
            self.values,
            own,
            self.scoring,
            clock=self.clock,
            documents=self.documents,
            generations=self.generations,
            baselines=baselines,
        )
