"""Baselines that learn nothing: random, Sobol and grid search."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import qmc

from evomerge.errors import ConfigError
from evomerge.optimize.base import Trials
from evomerge.optimize.cube import Cube, Vector, levels
from evomerge.space.protocol import Gene


@dataclass(frozen=True)
class _Drawn:
    """Handle of every point: nothing is learned, so there is nothing to tell apart."""


class Fixed(Trials):
    """Tries the points of an endless sequence, whatever comes out of them."""

    def __init__(self, cube: Cube, points: Iterator[Vector]) -> None:
        super().__init__(cube, population=1)
        self._points = points

    def propose(self) -> tuple[object, Vector]:
        """Return the next point of the sequence."""
        return _Drawn(), next(self._points)

    def learn(self, handle: object, point: Vector, loss: float) -> None:
        """Ignore it."""


def create_random(
    genes: Sequence[Gene], seed: int, population: int | None, sigma: float, budget: int | None
) -> Fixed:
    """Return uniform random search (Bergstra & Bengio 2012)."""
    generator = np.random.RandomState(seed % 2**32)
    return Fixed(
        Cube(genes, sigma), (generator.uniform(size=len(genes)) for _ in itertools.count())
    )


def create_sobol(
    genes: Sequence[Gene], seed: int, population: int | None, sigma: float, budget: int | None
) -> Fixed:
    """Return a Sobol sequence, shifted at random modulo 1 (Cranley & Patterson 1976).

    Raises:
        ConfigError: the space has more dimensions than the sequence is tabulated for.
    """
    count = len(genes)
    if count > qmc.Sobol.MAXDIM:
        raise ConfigError(
            f"optimizer.name is 'sobol', which reaches {qmc.Sobol.MAXDIM} genes, but the space has "
            f"{count}; use `random`."
        )
    shift = np.random.RandomState(seed % 2**32).uniform(size=count)
    sequence = qmc.Sobol(count, scramble=False)
    points = ((sequence.random(1)[0] + shift) % 1.0 for _ in itertools.count())
    return Fixed(Cube(genes, sigma), points)


def create_grid(
    genes: Sequence[Gene], seed: int, population: int | None, sigma: float, budget: int | None
) -> Fixed:
    """Return a grid over all genes that gets ever finer.

    First every corner (both ends of real genes, all values of discrete ones), then the corners
    and middles, then quarters, each point once and every stage in a scattered order, so that a
    search that stops early has seen all regions. The order does not depend on the budget.

    Raises:
        ConfigError: the corners alone are more than the budget.
    """
    corners = math.prod(levels(gene) or 2 for gene in genes)
    if budget is not None and corners > budget:
        raise ConfigError(
            f"optimizer.name is 'grid' over {len(genes)} genes, whose corners alone are "
            f"{corners} candidates, but the budget is {budget}; fix knobs, use fewer groups, "
            f"or use `sobol`."
        )
    cube = Cube(genes, sigma)
    return Fixed(cube, _grid(cube))


def _grid(cube: Cube) -> Iterator[Vector]:
    discrete = [levels(gene) for gene in cube.genes]
    if all(discrete):
        while True:
            yield from _stage([[(i + 0.5) / (k or 1) for i in range(k or 1)] for k in discrete])
    for depth in itertools.count():
        parts = 2**depth
        axes = [
            [(i + 0.5) / k for i in range(k)] if k else [i / parts for i in range(parts + 1)]
            for k in discrete
        ]
        coarser = {2 * i / parts for i in range(parts // 2 + 1)} if depth else set()
        real = [i for i, k in enumerate(discrete) if not k]
        for point in _stage(axes):
            if not all(point[i] in coarser for i in real):
                yield point


def _stage(axes: list[list[float]]) -> Iterator[Vector]:
    """Yield every combination once, striding through them by the golden ratio."""
    total = math.prod(len(axis) for axis in axes)
    stride = max(1, round(total * 0.6180339887498949)) if total < 2**50 else total // 2 + 1
    while math.gcd(stride, total) != 1:
        stride += 1
    for step in range(total):
        rest = step * stride % total
        point = []
        for axis in axes:
            rest, index = divmod(rest, len(axis))
            point.append(axis[index])
        yield np.array(point)
