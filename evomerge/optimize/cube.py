"""The unit cube: the coordinate system in which optimizers of real vectors work.

A real gene maps linearly to [0, 1]. An integer or binary gene with k values divides [0, 1] into k
equal cells: every point of a cell maps to its value, and the value to the middle of its cell.

The values of a choice have no order, so a choice of three or more has a coordinate for each value,
and the largest decides (random keys, Bean 1994). At the start all are equal: the search begins
undecided, and the place of a value in the list makes no difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from statistics import NormalDist
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from evomerge.space.protocol import Gene, Genome

Vector = NDArray[np.float64]

UNORDERED_SHARE = 1.5
"""Initial steps of binary genes and choices of two, in units of `optimizer.sigma`.

A step within a cell does not change the value. With sigma = 1/6, a step is 1/4, the distance from
the middle of a cell to the threshold; so known best paths through layers were found most often.
"""

Choices: TypeAlias = Literal["keys", "cells", "quantiles"]
"""How a choice of three or more values is seen. `keys`: a coordinate for each value; the largest
decides. `cells`: one coordinate of equal cells, for draws from the whole cube. `quantiles`: one
coordinate, cut so that a normal distribution around the start hits each cell equally often."""

KEY_STEP = 1 / 12
"""Initial steps of keys and quantiles: far from the borders, where keys would become equal."""

_NORMAL = NormalDist(0.5, KEY_STEP)

NEAR = 1e-6
"""Two values of a gene count as equal if they differ by at most this share of its range."""


class Cube:
    """Maps genomes to points of the unit cube and back; `sigma`: see `Setting`.

    Attributes, all of the shape (dimensions,), with keys more than genes:
        start: the point where the search starts, in [0, 1].
        step: initial standard deviation of every coordinate, > 0.
        low, high: smallest and largest useful value: 0 and 1, or infinite for a key.
    """

    def __init__(self, genes: Sequence[Gene], sigma: float, choices: Choices = "keys") -> None:
        self.genes = tuple(genes)
        unordered = [gene.kind == "choice" and gene.high > 1 for gene in genes]
        counts = [
            round(gene.high) + 1 if choices == "keys" and many else 1
            for gene, many in zip(genes, unordered, strict=True)
        ]
        quantiles = np.flatnonzero(unordered) if choices == "quantiles" else np.array([], int)
        self._quantiles: list[int] = quantiles.tolist()
        firsts = (np.cumsum(counts) - counts).tolist()
        self._counts, self._places = counts, list(zip(genes, counts, firsts, strict=True))
        steps = [
            KEY_STEP if many and choices != "cells" else _step(gene, sigma)
            for gene, many in zip(genes, unordered, strict=True)
        ]
        self.start: Vector = np.repeat([_start(gene) for gene in genes], counts)
        self.step: Vector = np.repeat(steps, counts)
        is_key = np.repeat([count > 1 for count in counts], counts)
        self.low: Vector = np.where(is_key, -math.inf, 0.0)
        self.high: Vector = np.where(is_key, math.inf, 1.0)

    def decided(self, random: np.random.RandomState) -> Vector:
        """Return the start, with a random value of every undecided gene."""
        cells = np.repeat([levels(gene) or 0 for gene, _, _ in self._places], self._counts)
        between = np.isinf(self.high) | ((cells > 0) & (self.start * cells % 1 == 0))
        steps = np.where(between, NEAR * self.step, 0.0)
        steps[self._quantiles] = KEY_STEP
        moved: Vector = self.start + steps * random.standard_normal(len(self.start))
        return moved

    def point(self, genome: Genome) -> Vector:
        """Return the point that a genome maps to; ValueError: it does not belong to the space.

        The keys of a choice are the mean of those, in a first sample, of which this value's is the
        largest: it wins clearly, and small steps can still make another one win.
        """
        if len(genome) != len(self.genes):
            raise ValueError(f"The genome has {len(genome)} genes, the space {len(self.genes)}.")
        for gene, value in zip(self.genes, genome, strict=True):
            in_range = gene.low <= value <= gene.high
            if not in_range or (gene.kind != "real" and value != int(value)):
                raise ValueError(f"Gene {gene.name} is {value!r}, which its range does not have.")
        coordinates: list[float] = []
        for (gene, count, _), value in zip(self._places, genome, strict=True):
            if count == 1:
                coordinates.append(_position(gene, value))
            else:
                low, high = _lost_and_won(count)
                won = int(value - gene.low)
                coordinates += [high if place == won else low for place in range(count)]
        point = np.array(coordinates)
        for place in self._quantiles:
            point[place] = _NORMAL.inv_cdf(point[place])
        return point

    def genome(self, point: Vector) -> Genome:
        """Return the genome of a point; coordinates outside of [0, 1] are clipped."""
        values = point.tolist()
        for place in self._quantiles:
            values[place] = _NORMAL.cdf(values[place])
        return tuple(
            _value(gene, values[first])
            if count == 1
            else gene.low + int(np.argmax(point[first : first + count]))
            for gene, count, first in self._places
        )

    def is_near(self, genome: Genome, other: Genome) -> bool:
        """Return whether two genomes are nearly equal: every gene within `NEAR` of its range."""
        triples = zip(self.genes, genome, other, strict=True)
        return all(abs(a - b) <= NEAR * (gene.high - gene.low) for gene, a, b in triples)


def levels(gene: Gene) -> int | None:
    """Return the number of values of a gene, or None for a real gene."""
    return None if gene.kind == "real" else round(gene.high - gene.low) + 1


@cache
def _lost_and_won(count: int) -> tuple[float, float]:
    """Return the mean keys of the values that lose, and of the one that wins, in a first sample.

    The largest of k standard normal numbers has the mean m(k), the integral of
    k x phi(x) Phi(x)^(k - 1). As their sum has the mean 0, each other one has -m(k) / (k - 1).
    """
    x = np.linspace(-10.0, 10.0, 20001)
    phi = np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    below = np.cumsum(phi) * (x[1] - x[0])
    largest = float((count * x * phi * below ** (count - 1)).sum() * (x[1] - x[0]))
    return 0.5 - KEY_STEP * largest / (count - 1), 0.5 + KEY_STEP * largest


def _start(gene: Gene) -> float:
    return 0.5 if gene.kind == "choice" else _position(gene, gene.start)


def _position(gene: Gene, value: float) -> float:
    count = levels(gene)
    if count is None:
        return (value - gene.low) / (gene.high - gene.low)
    return (value - gene.low + 0.5) / count


def _value(gene: Gene, position: float) -> float:
    count = levels(gene)
    x = 0.5 if math.isnan(position) else min(1.0, max(0.0, position))
    if count is not None:
        return gene.low + min(count - 1, math.floor(x * count))
    return min(gene.high, max(gene.low, gene.low + x * (gene.high - gene.low)))


def _step(gene: Gene, sigma: float) -> float:
    count = levels(gene)
    if gene.sigma is not None:
        return gene.sigma / (gene.high - gene.low if count is None else count)
    if gene.kind in ("choice", "binary"):
        return sigma * UNORDERED_SHARE
    return sigma
