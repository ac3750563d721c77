"""Searches that do not learn from results: random, Sobol and grid search."""

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from evomerge.errors import ConfigError
from evomerge.optimize.base import BaseOptimizer, Cube, Vector, levels
from evomerge.optimize.protocol import Setting
from evomerge.space.protocol import Gene


class SequenceSearch(BaseOptimizer):
    """Proposes the points of an infinite sequence, whatever their losses are."""

    def __init__(self, genes: Sequence[Gene], setting: Setting, points: Iterator[Vector]) -> None:
        cube = Cube(genes, setting.sigma, choices="cells")
        super().__init__(cube, population=1, objectives=setting.objectives)
        self._points = points

    def propose(self) -> tuple[object, Vector]:
        """Return the next point of the sequence."""
        return "point", next(self._points)

    def learn_all(self, sample: object, point: Vector, losses: Vector, violation: float) -> None:
        """Do nothing."""


def create_random(genes: Sequence[Gene], setting: Setting) -> SequenceSearch:
    """Return uniform random search (Bergstra & Bengio 2012)."""
    generator = np.random.RandomState(setting.seed % 2**32)
    points = (generator.uniform(size=len(genes)) for _ in itertools.count())
    return SequenceSearch(genes, setting, points)


def create_sobol(genes: Sequence[Gene], setting: Setting) -> SequenceSearch:
    """Return a search by a Sobol sequence with a random shift (Cranley & Patterson 1976)."""
    from scipy.stats import qmc

    shift = np.random.RandomState(setting.seed % 2**32).uniform(size=len(genes))
    sequence = qmc.Sobol(len(genes), scramble=False)
    points = ((sequence.random(1)[0] + shift) % 1.0 for _ in itertools.count())
    return SequenceSearch(genes, setting, points)


def create_grid(genes: Sequence[Gene], setting: Setting) -> SequenceSearch:
    """Return a search over finer and finer grids.

    The first grid has the two ends of every real gene and all values of discrete genes; each next
    grid halves the spacing of the real genes. Its points are in a scattered order, so that a search
    that stops early has seen all regions. ConfigError: the first has more than the budget.
    """
    counts = [levels(gene) for gene in genes]
    corners = math.prod(count or 2 for count in counts)
    if setting.budget is not None and corners > setting.budget:
        raise ConfigError(
            f"optimizer.name is 'grid' over {len(genes)} genes, whose corners alone are "
            f"{corners} candidates, but the budget is {setting.budget}; fix knobs, use fewer "
            "groups, or use `sobol`."
        )
    return SequenceSearch(genes, setting, _grid(counts))


def _grid(counts: Sequence[int | None]) -> Iterator[Vector]:
    """Yield the points of finer and finer grids; without real genes, repeat the same grid."""
    reals = [index for index, count in enumerate(counts) if count is None]
    for depth in itertools.count():
        parts = 2**depth if reals else 1
        ends = [i / parts for i in range(parts + 1)]
        axes = [ends if k is None else [(i + 0.5) / k for i in range(k)] for k in counts]
        coarser = set(ends[::2]) if depth and reals else set()
        for point in _scattered(axes):
            if not reals or not all(point[index] in coarser for index in reals):
                yield point


def _scattered(axes: list[list[float]]) -> Iterator[Vector]:
    """Yield every combination of coordinates once, in a scattered order.

    The combinations are numbered; from one to the next, the number grows by about 0.618 of the
    total (the golden ratio), modulo the total.
    """
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
