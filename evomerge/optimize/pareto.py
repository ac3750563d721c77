"""Optimizers of several objectives: NSGA-II and NSGA-III of pymoo, in the unit cube.

pymoo learns whole batches. So a batch of its proposals is kept here until each of them is told, and
then given back to pymoo. Points that pymoo did not propose (enqueued genomes) join the next batch.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np

from evomerge.errors import ConfigError
from evomerge.optimize.base import BaseOptimizer
from evomerge.optimize.cube import Cube, Vector
from evomerge.optimize.setting import Setting
from evomerge.space.protocol import Gene, Genome

POPULATION = 20
"""Default population of both; small, since a search has some hundred candidates."""

_DIRECTIONS = (12, 6, 4, 3)  # partitions of reference directions for 2, 3, 4, 5 objectives


@dataclass
class _Batch:
    """Proposals of pymoo that are told together.

    Attributes:
        population: pymoo's individuals.
        losses: the losses of each, one for each objective; None until it is told.
        violations: by how much each breaks constraints.
    """

    population: Any
    losses: list[Vector | None]
    violations: list[float]


_Place: TypeAlias = tuple[_Batch, int]
"""A batch and a place in it."""


class NondominatedSorting(BaseOptimizer):
    """NSGA-II or NSGA-III; minimises several losses at once.

    Args:
        algorithm: a new algorithm of pymoo.
        cube: the coordinate system of the genes.
        population: individuals in a generation.
        objectives: number of objectives, at least 2.
        seed: seed of all random numbers.
    """

    def __init__(
        self, algorithm: Any, cube: Cube, population: int, objectives: int, seed: int
    ) -> None:
        from pymoo.core.problem import Problem
        from pymoo.core.termination import NoTermination

        super().__init__(cube, population, objectives)
        box = Problem(n_var=len(cube.genes), n_obj=objectives, n_ieq_constr=1, xl=0.0, xu=1.0)
        self._algorithm = algorithm.setup(box, termination=NoTermination(), seed=seed % 2**32)
        self._waiting: deque[tuple[_Batch, int]] = deque()
        self._extra: list[tuple[Vector, Vector, float]] = []
        """Points that pymoo did not propose, with their losses and violations."""

    def propose(self) -> tuple[object, Vector]:
        """Return the next individual of the current batch, or the first one of a new batch."""
        if not self._waiting:
            population = self._algorithm.ask()
            count = len(population)
            batch = _Batch(population, [None] * count, [0.0] * count)
            self._waiting.extend((batch, place) for place in range(count))
        batch, place = self._waiting.popleft()
        return (batch, place), np.clip(batch.population[place].X, 0.0, 1.0)

    def amend(self, trial: int, genome: Genome) -> None:
        """Replace the genome of an open trial; its place in the batch stays."""
        handle = self._open[trial][0] if trial in self._open else None
        super().amend(trial, genome)
        opened, point = self._open[trial]
        if handle is not None and opened is None:
            batch, place = cast(_Place, handle)
            batch.population[place].X = point
            self._open[trial] = (handle, point)

    def learn_all(self, handle: object, point: Vector, losses: Vector, violation: float) -> None:
        """Note the losses of a point; pymoo learns a batch when all of it is told."""
        if handle is None:
            self._extra.append((point, losses, violation))
            return
        batch, place = cast(_Place, handle)
        batch.losses[place], batch.violations[place] = losses, violation
        if all(item is not None for item in batch.losses):
            self._tell(batch)

    def _tell(self, batch: _Batch) -> None:
        from pymoo.core.population import Population

        points = [individual.X for individual in batch.population]
        rows = list(zip(points, batch.losses, batch.violations, strict=True)) + self._extra
        self._extra = []
        told = Population.new(
            X=np.array([row[0] for row in rows]),
            F=np.array([row[1] for row in rows]),
            G=np.array([[row[2]] for row in rows]),
        )
        for individual in told:
            individual.evaluated.update("FG")
        self._algorithm.tell(infills=told)


def create_nsga2(genes: Sequence[Gene], setting: Setting) -> NondominatedSorting:
    """Return NSGA-II (Deb et al. 2002, doi 10.1109/4235.996017)."""
    from pymoo.algorithms.moo.nsga2 import NSGA2

    size = setting.population or POPULATION
    algorithm = NSGA2(pop_size=size, sampling=_start(genes, setting, size))
    return NondominatedSorting(
        algorithm, Cube(genes, setting.sigma), size, setting.objectives, setting.seed
    )


def create_nsga3(genes: Sequence[Gene], setting: Setting) -> NondominatedSorting:
    """Return NSGA-III (Deb and Jain 2014, doi 10.1109/TEVC.2013.2281535); for many objectives.

    Raises:
        ConfigError: the population is smaller than the number of reference directions.
    """
    from pymoo.algorithms.moo.nsga3 import NSGA3
    from pymoo.operators.selection.tournament import TournamentSelection
    from pymoo.util.ref_dirs import get_reference_directions

    partitions = _DIRECTIONS[min(setting.objectives - 2, len(_DIRECTIONS) - 1)]
    directions = get_reference_directions("das-dennis", setting.objectives, n_partitions=partitions)
    size = setting.population or max(POPULATION, 4 * math.ceil(len(directions) / 4))
    if size < len(directions):
        raise ConfigError(
            f"optimizer.population is {size}, but 'nsga3' has {len(directions)} reference "
            f"directions for {setting.objectives} objectives; set it to {len(directions)} or more."
        )
    algorithm = NSGA3(
        ref_dirs=directions,
        pop_size=size,
        sampling=_start(genes, setting, size),
        selection=TournamentSelection(func_comp=_less_broken),
    )
    return NondominatedSorting(
        algorithm, Cube(genes, setting.sigma), size, setting.objectives, setting.seed
    )


def _less_broken(population: Any, pairs: Any, random_state: Any, **_: Any) -> Any:
    """Return the winner of each pair: what breaks constraints less, else one of them at random.

    NSGA-III of pymoo 0.6.2 draws from an unseeded generator where both break them equally.

    Args:
        population: individuals.
        pairs: their places, shape (tournaments, 2).
        random_state: numpy generator.

    Returns:
        places of the winners, shape (tournaments, 1).
    """
    broken = population.get("CV")[:, 0][pairs]
    drawn = random_state.integers(2, size=len(pairs))
    second = np.where(broken[:, 0] == broken[:, 1], drawn, broken[:, 0] > broken[:, 1])
    return pairs[np.arange(len(pairs)), second.astype(int)][:, None]


def _start(genes: Sequence[Gene], setting: Setting, size: int) -> Any:
    """Return the first population: points around the start of the search, within the cube.

    They are normally distributed with twice the initial step of each gene, so that the first
    generation covers more than the start's neighbourhood.
    """
    cube = Cube(genes, setting.sigma)
    draws = np.random.RandomState(setting.seed % 2**32).standard_normal((size, len(genes)))
    return np.clip(cube.start + 2 * cube.step * draws, 0.0, 1.0)
