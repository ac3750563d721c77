"""Optimizers that learn a generation at a time, and compare its genomes with each other only."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from evomerge.optimize.base import INJECTED_SHARE, REPLACED, BaseOptimizer, Cube, Vector
from evomerge.optimize.protocol import Setting
from evomerge.space.protocol import Genome

Sample = TypeVar("Sample")


@dataclass(frozen=True)
class Trial(Generic[Sample]):
    """A point and its loss; `sample` is None if the algorithm did not sample exactly this point."""

    sample: Sample | None
    point: Vector
    loss: float


class Generations(BaseOptimizer, Generic[Sample]):
    """Collects the losses of a generation (None: of 4 + floor(3 ln n), for n genes), and learns it.

    Points that it did not propose do not count: a first one could be of baselines only, which say
    nothing about the distribution. The best of them, up to `INJECTED_SHARE`, take the places of the
    worst samples if they are better (injection, Hansen 2011, arXiv 1110.4181). Points that were
    tried in place of its samples count as samples.
    """

    def __init__(self, cube: Cube, setting: Setting) -> None:
        genes = max(2, len(cube.genes))
        population = setting.population or 4 + int(3 * math.log(genes))
        super().__init__(cube, population, is_fresh=setting.is_fresh)
        self._trials: list[Trial[Sample]] = []
        self._injected: list[Trial[Sample]] = []

    @abstractmethod
    def update(self, trials: list[Trial[Sample]]) -> None:
        """Learn a generation."""

    @property
    @abstractmethod
    def mean(self) -> Vector:
        """The point of the cube around which samples are drawn."""

    def believed(self) -> Genome:
        """Return the genome of the mean."""
        return self.cube.genome(self.mean)

    def learn(self, sample: object, point: Vector, loss: float) -> None:
        """Collect a loss; with the last one of a generation, the distribution is updated.

        A generation of equal losses says nothing, and would move the distribution at random.
        """
        if sample is None:
            # The start is the first mean. As a sample it would be a step of no length, by which
            # steps are shortened.
            if not np.array_equal(point, self.cube.start):
                self._injected.append(Trial(None, point, loss))
            return
        exact = None if sample is REPLACED else sample
        self._trials.append(Trial(exact, point, loss))  # type: ignore[arg-type]
        if len(self._trials) == self.population:
            generation = self._with_injected()
            self._trials, self._injected = [], []
            if len({trial.loss for trial in generation}) > 1:
                self.update(generation)

    def _with_injected(self) -> list[Trial[Sample]]:
        """Return the generation, in which injected points have replaced the worst samples."""
        most = max(1, math.floor(INJECTED_SHARE * self.population))
        every = [*self._trials, *sorted(self._injected, key=lambda trial: trial.loss)[:most]]
        best = sorted(range(len(every)), key=lambda index: every[index].loss)[: self.population]
        return [every[index] for index in sorted(best)]
