"""Optimizers of several objectives: NSGA-II and NSGA-III of pymoo, in the unit cube.

pymoo is told a generation at a time: the first `population` of its own proposals whose losses are
known. What was enqueued and is known by then comes beside them: in the first population, which is
larger by it, or with the offspring. If it counted as part of a generation, as many individuals of
each generation would come one too late. If a search tells generation by generation, this is pymoo's
own search, individual for individual.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from evomerge.errors import ConfigError
from evomerge.optimize.base import BaseOptimizer
from evomerge.optimize.cube import Cube, Vector
from evomerge.optimize.protocol import Setting
from evomerge.space.protocol import Gene

POPULATION = 20
"""Default population of both; small, since a search has some hundred candidates."""

_DIRECTIONS = (12, 6, 4, 3)  # partitions of reference directions for 2, 3, 4, 5 objectives


class NondominatedSorting(BaseOptimizer):
    """NSGA-II or NSGA-III, an algorithm of pymoo; minimises several losses at once.

    If more trials are open than a population, further offspring of the current population are
    proposed. The first population are points around the start of the search, normally distributed
    with twice the initial step of each gene, so that they cover more than its neighbourhood.
    """

    def __init__(self, algorithm: Any, genes: Sequence[Gene], setting: Setting) -> None:
        from pymoo.core.problem import Problem
        from pymoo.core.termination import NoTermination

        cube, seed = Cube(genes, setting.sigma), setting.seed % 2**32
        super().__init__(cube, algorithm.pop_size, setting.objectives)
        box = Problem(
            n_var=len(cube.start), n_obj=setting.objectives, n_ieq_constr=1, xl=0.0, xu=1.0
        )
        self._algorithm = algorithm.setup(box, termination=NoTermination(), seed=seed)
        self._random = np.random.RandomState(seed)
        self._numbers = itertools.count(1)
        self._waiting: deque[Vector] = deque()
        self._told: list[tuple[int, Vector, Vector, float]] = []
        """Number of the proposal (0: enqueued), point, losses, violation."""

    def propose(self) -> tuple[object, Vector]:
        """Return the next individual of the first population, or of the offspring."""
        if not self._waiting:
            self._waiting.extend(self._offspring())
        return next(self._numbers), self._waiting.popleft()

    def _offspring(self) -> Sequence[Vector]:
        offspring = self._algorithm.ask() if self._algorithm.is_initialized else None
        if offspring is not None:
            return [np.clip(individual.X, 0.0, 1.0) for individual in offspring]
        # There is no population yet; or no mating gave anything new, by which pymoo would end.
        self._algorithm.termination.force_termination = False
        cube, size = self.cube, (self.population, len(self.cube.start))
        points = cube.start + 2 * cube.step * self._random.standard_normal(size)
        return list(np.clip(points, 0.0, 1.0))

    def learn_all(self, handle: object, point: Vector, losses: Vector, violation: float) -> None:
        """Note the losses of a point; pymoo learns them with those of a whole generation."""
        self._told.append((handle if isinstance(handle, int) else 0, point, losses, violation))
        if sum(number > 0 for number, *_ in self._told) == self.population:
            self._tell()

    def amended(self, handle: object) -> object:
        """Return the number of the individual: the point that was tried takes its place."""
        return handle

    def learn_again(self, handle: object, point: Vector, losses: Vector, violation: float) -> None:
        """Do nothing: a second copy of an individual would only take the place of another."""

    def _tell(self) -> None:
        from pymoo.core.population import Population

        # In the order of the proposals, so that the order of telling changes nothing; enqueued
        # ones have no number, so their points decide.
        _, points, losses, violations = zip(
            *sorted(self._told, key=lambda row: (row[0], row[1].tolist())), strict=True
        )
        told = Population.new(
            X=np.array(points), F=np.array(losses), G=np.array(violations)[:, None]
        )
        for individual in told:
            individual.evaluated.update("FG")
        self._algorithm.tell(infills=told)
        self._told = []
        self._waiting.clear()  # they are offspring of the population before


def create_nsga2(genes: Sequence[Gene], setting: Setting) -> NondominatedSorting:
    """Return NSGA-II (Deb et al. 2002, doi 10.1109/4235.996017)."""
    from pymoo.algorithms.moo.nsga2 import NSGA2

    return NondominatedSorting(NSGA2(pop_size=setting.population or POPULATION), genes, setting)


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
        selection=TournamentSelection(func_comp=_less_broken),
    )
    return NondominatedSorting(algorithm, genes, setting)


def _less_broken(population: Any, pairs: Any, random_state: Any, **_: Any) -> Any:
    """Return the winner of each pair: what breaks constraints less, else one of them at random.

    NSGA-III of pymoo 0.6.2 draws from an unseeded generator where both break them equally. `pairs`
    has the places of individuals, shape (tournaments, 2); the winners have shape (tournaments, 1).
    """
    broken = population.get("CV")[:, 0][pairs]
    drawn = random_state.integers(2, size=len(pairs))
    second = np.where(broken[:, 0] == broken[:, 1], drawn, broken[:, 0] > broken[:, 1])
    return pairs[np.arange(len(pairs)), second.astype(int)][:, None]
