"""The archives of MAP-Elites (Mouret and Clune 2015, arXiv 1504.04909) as CycleQD has them.

There is one archive for each objective. The scores on the other objectives, in bins, say in which
cell of an archive a candidate is. A cell keeps its elite: the candidate with the best score on the
archive's own objective, the quality.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from evomerge.scores import Constraint, Objective, Scores, violation

Cell: TypeAlias = tuple[int, ...]
"""The bins of the scores on the objectives other than the quality."""

LOWEST, SPREAD = 0.5, 0.8
"""Normalised values are from LOWEST to LOWEST + SPREAD, as in the authors' code."""


@dataclass(frozen=True)
class Grid:
    """How values are divided into bins.

    Attributes:
        bins: number of bins of each objective.
        bounds: smallest and largest value of each objective; values outside of it are in the first
            or the last bin. Higher is better, so the sign is changed where lower is better.
    """

    bins: int
    bounds: tuple[tuple[float, float], ...]

    @classmethod
    def of(
        cls, objectives: Sequence[Objective], bins: int, bounds: Mapping[str, Sequence[float]]
    ) -> Grid:
        """Return the grid of objectives.

        Args:
            objectives: the objectives.
            bins: number of bins.
            bounds: key of an objective -> the bounds of its metric, in its own sign; 0 and 1 where
                none are given.
        """

        def of_values(item: Objective) -> tuple[float, float]:
            low, high = bounds.get(item.key, (0.0, 1.0))
            return (low, high) if item.higher_is_better else (-high, -low)

        return cls(bins, tuple(map(of_values, objectives)))

    def bin(self, objective: int, value: float) -> int:
        """Return the bin of a value, from 0; a bin has its lower end."""
        low, high = self.bounds[objective]
        place = math.floor((value - low) / (high - low) * self.bins)
        return min(max(place, 0), self.bins - 1)


@dataclass(frozen=True)
class Elite:
    """The best candidate of a cell.

    Attributes:
        number: its number.
        quality: its score on the archive's objective; higher is better.
    """

    number: int
    quality: float


@dataclass
class Archive:
    """The elites of one objective.

    Attributes:
        grid: how scores are divided into bins.
        objective: index of the objective that is the quality.
        elites: the elites by cell, in the order in which their cells were first taken.
    """

    grid: Grid
    objective: int
    elites: dict[Cell, Elite] = field(default_factory=dict)

    def add(self, number: int, values: Sequence[float]) -> bool:
        """Add a candidate if its cell is empty or its quality is better; return whether it was.

        Args:
            number: its number.
            values: its finite values of all objectives; higher is better.
        """
        cell = tuple(
            self.grid.bin(index, value)
            for index, value in enumerate(values)
            if index != self.objective
        )
        known, quality = self.elites.get(cell), values[self.objective]
        if known is not None and quality <= known.quality:
            return False
        self.elites[cell] = Elite(number, quality)
        return True

    def best(self) -> Elite:
        """Return the elite with the best quality, the first one of equals; there must be one."""
        return max(self.elites.values(), key=lambda elite: elite.quality)

    def draw(self, random: np.random.Generator, count: int) -> list[int]:
        """Return the numbers of different elites, drawn by gamma.

        Gamma is the product of the quality and the bins, each normalised over the elites. If there
        are fewer elites than asked for, all are returned.
        """
        elites = list(self.elites.values())
        gamma = _normalised([elite.quality for elite in elites])
        for bins in zip(*self.elites, strict=True):
            gamma = gamma * _normalised(bins)
        count = min(count, len(elites))
        drawn = random.choice(len(elites), count, p=gamma / gamma.sum(), replace=False)
        return [elites[index].number for index in drawn]


def finite_values(
    objectives: Sequence[Objective], constraints: Sequence[Constraint], scores: Scores
) -> tuple[float, ...] | None:
    """Return the values of all objectives; None if the scores do not count.

    They do not if a value is not finite or estimated, or a constraint is broken.
    """
    if scores.expected or violation(constraints, scores) > 0:
        return None
    values = tuple(item.value(scores) for item in objectives)
    return values if all(map(math.isfinite, values)) else None


def _normalised(values: Sequence[float]) -> NDArray[np.float64]:
    """Return values moved to the range of normalised values; 1 for each if all are equal."""
    array = np.array(values, dtype=float)
    low, high = array.min(), array.max()
    if low == high:
        return np.ones(len(array))
    normalised: NDArray[np.float64] = LOWEST + (array - low) * (SPREAD / (high - low))
    return normalised
