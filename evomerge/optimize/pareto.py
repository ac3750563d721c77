"""NSGA-II (Deb et al. 2002, doi 10.1109/4235.996017) of pymoo, in the unit cube.

pymoo is told a generation at a time: the first `population` of its own proposals whose losses are
known. Other points that are told by then come beside them. If they counted, as many individuals of
each generation would come one too late. Told generation by generation, this is pymoo's own search.
"""

import itertools
import math
from collections import deque
from collections.abc import Sequence

import numpy as np

from evomerge.optimize.base import BaseOptimizer, Cube, Vector
from evomerge.optimize.protocol import Setting
from evomerge.space.protocol import Gene

POPULATION = 20
"""Default population; small, since a search has some hundred candidates."""


class NondominatedSorting(BaseOptimizer):
    """NSGA-II; minimises several losses at once.

    If more genomes are open than a population, further offspring of it are proposed. The first
    population is normally distributed around the start, with twice the initial step of each gene.
    """

    learns_repeats = False  # a second copy of an individual would only take another one's place

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
        self._trials: list[tuple[float, Vector, Vector, float]] = []
        """Number of the individual, point, losses, violation. Other points have the number 0, those
        that were tried in place of an individual infinity."""

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

    def learn_all(self, sample: object, point: Vector, losses: Vector, violation: float) -> None:
        """Note the losses of a point; pymoo learns them with those of a whole generation."""
        number = sample if isinstance(sample, int) else 0 if sample is None else math.inf
        self._trials.append((number, point, losses, violation))
        if sum(number > 0 for number, *_ in self._trials) == self.population:
            self._learn_generation()

    def _learn_generation(self) -> None:
        from pymoo.core.population import Population

        # In the order of the proposals, so that the order of telling changes nothing; of those
        # without a number, the points decide.
        ordered = sorted(self._trials, key=lambda row: (row[0], row[1].tolist()))
        _, points, losses, violations = map(np.array, zip(*ordered, strict=True))
        generation = Population.new(X=points, F=losses, G=violations[:, None])
        for individual in generation:
            individual.evaluated.update("FG")
        self._algorithm.tell(infills=generation)
        self._trials = []
        self._waiting.clear()  # they are offspring of the population before
