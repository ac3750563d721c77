"""What all CMA-ES here have in common: they learn a whole generation of their own samples at once.

What was enqueued comes beside them. If it counted as part of a generation, a first one could be of
baselines only, and the distribution would be learned from points that say nothing about it.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from evomerge.optimize.base import BaseOptimizer
from evomerge.optimize.cube import Cube, Vector

Sample = TypeVar("Sample")

INJECTED_SHARE = 0.2
"""Largest share of a generation that were not sampled by the algorithm. They are few, since step
sizes are learned from the lengths and ranks of samples; they pull the mean anyhow."""


@dataclass(frozen=True)
class Told(Generic[Sample]):
    """An outcome."""

    sample: (
        Sample | None
    )  # the algorithm's own; None if it did not sample the point, or not exactly
    point: Vector
    loss: float


@dataclass(frozen=True)
class _Amended:
    """Stands for a sample instead of which another point was tried."""


class Generations(BaseOptimizer, Generic[Sample]):
    """Collects the losses of a generation.

    Points that were enqueued do not count into a generation. The best of them, up to
    `INJECTED_SHARE`, take the places of the worst samples if they are better than these (injection,
    Hansen 2011, arXiv 1110.4181). Amended points count as samples.
    """

    def __init__(self, cube: Cube, population: int) -> None:
        super().__init__(cube, population)
        self._told: list[Told[Sample]] = []
        self._injected: list[Told[Sample]] = []

    @abstractmethod
    def update(self, told: list[Told[Sample]]) -> None:
        """Learn a generation."""

    def amended(self, handle: object) -> object:
        """Return what stands for a sample instead of which another point was tried."""
        return _Amended()

    def learn(self, handle: object, point: Vector, loss: float) -> None:
        """Collect a loss; with the last one of a generation, the distribution is updated."""
        if handle is None:
            # The start is the first mean. As a sample it would be a step of no length, by which
            # steps are shortened.
            if not np.array_equal(point, self.cube.start):
                self._injected.append(Told(None, point, loss))
            return
        sample = None if isinstance(handle, _Amended) else handle
        self.collect(Told(sample, point, loss))  # type: ignore[arg-type]

    def collect(self, told: Told[Sample]) -> None:
        """Add the loss of a sample, and learn the generation if it is complete."""
        self._told.append(told)
        if len(self._told) == self.size:
            generation = self.with_injected(self._told)
            self._told, self._injected = [], []
            self.update(generation)

    @property
    def size(self) -> int:
        """Number of samples of the current generation."""
        return self.population

    def with_injected(self, own: list[Told[Sample]]) -> list[Told[Sample]]:
        """Return a generation in which injected points have replaced the worst samples."""
        most = max(1, math.floor(INJECTED_SHARE * len(own)))
        best = sorted(self._injected, key=lambda told: told.loss)[:most]
        kept = sorted([*own, *best], key=lambda told: told.loss)[: len(own)]
        chosen = set(map(id, kept))
        return [told for told in (*own, *best) if id(told) in chosen]
