"""NSGA-II (Deb et al. 2002, doi 10.1109/4235.996017) of pymoo, in the unit cube.

pymoo is told a generation at a time: the first `population` of its own proposals whose losses are
known. What was enqueued and is known by then comes beside them: in the first population, which is
larger by it, or with the offspring. If it counted as part of a generation, as many individuals of
each generation would come one too late. If a search tells generation by generation, this is pymoo's
own search, individual for individual.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence

import numpy as np

from evomerge.optimize.base import BaseOptimizer
from evomerge.optimize.cube import Cube, Vector
from evomerge.optimize.protocol import Setting
from evomerge.space.protocol import Gene

POPULATION = 20
"""Default population; small, since a search has some hundred candidates."""


class NondominatedSorting(BaseOptimizer):
    """NSGA-II; minimises several losses at once.

    If more trials are open than a population, further offspring of the current population are
    proposed. The first population are points around the start of the search, normally distributed
    with twice the initial step of each gene, so that they cover more than its neighbourhood.
    """

    def __init__(self, genes: Sequence[Gene], setting: Setting) -> None:
        from pymoo.algorithms.moo.nsga2 import NSGA2
        from pymoo.core.problem import Problem
        from pymoo.core.termination import NoTermination

        cube, seed = Cube(genes, setting.sigma), setting.seed % 2**32
        super().__init__(cube, setting.population or POPULATION, setting.objectives)
        box = Problem(
            n_var=len(cube.start), n_obj=setting.objectives, n_ieq_constr=1, xl=0.0, xu=1.0
        )
        self._algorithm = NSGA2(pop_size=self.population)
        self._algorithm.setup(box, termination=NoTermination(), seed=seed)
        self._random = np.random.RandomState(seed)
        self._individuals = itertools.count(1)
        self._waiting: deque[Vector] = deque()
        self._told: list[tuple[int, Vector, Vector, float]] = []
        """Number of the individual (0: enqueued), point, losses, violation."""

    def propose(self) -> tuple[object, Vector]:
        """Return the next individual of the first population, or of the offspring."""
        if not self._waiting:
            self._waiting.extend(self._offspring())
        return next(self._individuals), self._waiting.popleft()

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
            self._learn_generation()

    def amended(self, handle: object) -> object:
        """Return the number of the individual: the point that was tried takes its place."""
        return handle

    def learn_again(self, handle: object, point: Vector, losses: Vector, violation: float) -> None:
        """Do nothing: a second copy of an individual would only take the place of another."""

    def _learn_generation(self) -> None:
        from pymoo.core.population import Population

        # In the order of the proposals, so that the order of telling changes nothing; enqueued
        # ones have no number, so their points decide.
        ordered = sorted(self._told, key=lambda row: (row[0], row[1].tolist()))
        _, points, losses, violations = map(np.array, zip(*ordered, strict=True))
        told = Population.new(X=points, F=losses, G=violations[:, None])
        for individual in told:
            individual.evaluated.update("FG")
        self._algorithm.tell(infills=told)
        self._told = []
        self._waiting.clear()  # they are offspring of the population before
