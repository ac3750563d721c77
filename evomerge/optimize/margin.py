"""CMA-ES with margin (Hamano et al. 2022, arXiv 2205.13482), by the package cmaes.

With plain CMA-ES, a discrete gene can become stuck at one value, since a small step does not change
it. The margin is a lower limit on the probability of the other values. It helps with genomes that
have many binary or choice genes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from cmaes import CMAwM

from evomerge.optimize.base import BaseOptimizer, default_population
from evomerge.optimize.cube import Cube, Vector, levels
from evomerge.optimize.setting import Setting
from evomerge.space.protocol import Gene


class MarginCMA(BaseOptimizer):
    """CMA-ES with margin. cmaes works in the coordinates z = point of the cube / initial step.

    Args:
        cube: the coordinate system of the genes.
        seed: seed of all random numbers, 0 or more.
        population: trials in a generation, 4 or more, or None for 4 + floor(3 ln n).
    """

    def __init__(self, cube: Cube, seed: int, population: int | None) -> None:
        super().__init__(cube, population or default_population(len(cube.genes)))
        cells = [levels(gene) for gene in cube.genes]
        edges = [(0.5 / k, 1 - 0.5 / k) if k else (0.0, 1.0) for k in cells]
        steps = np.array([1 / k if k else 0.0 for k in cells])
        # cmaes needs two dimensions: a single gene gets a second one that has no effect.
        self._idle = max(0, 2 - len(cells))
        idle = np.zeros(self._idle)
        self._inner = CMAwM(
            mean=np.concatenate([cube.start / cube.step, idle]),
            sigma=1.0,
            bounds=np.concatenate(
                [np.array(edges) / cube.step[:, None], np.tile((-1.0, 1.0), (self._idle, 1))]
            ),
            steps=np.concatenate([steps / cube.step, idle]),
            # Clip samples at once. By default they are drawn again up to 100 times until all genes
            # are inside, which is slow if many optima lie on bounds, and no better.
            n_max_resampling=0,
            seed=seed % 2**32,
            population_size=self.population,
        )
        self._generation: list[tuple[Vector, float]] = []

    def propose(self) -> tuple[object, Vector]:
        """Return a sample of cmaes, and its point, in which discrete genes are rounded."""
        point, sample = self._inner.ask()
        return sample, point[: len(self.cube.genes)] * self.cube.step

    def learn(self, handle: object, point: Vector, loss: float) -> None:
        """Collect a loss; after every `population` losses, the distribution is updated."""
        sample: Any = handle
        if sample is None:
            sample = self._shortened(np.concatenate([point / self.cube.step, np.zeros(self._idle)]))
        self._generation.append((sample, loss))
        if len(self._generation) == self.population:
            self._inner.tell(self._generation)
            self._generation = []

    def _shortened(self, sample: Vector) -> Vector:
        """Return a point that cmaes did not propose, moved to the length of a likely step.

        A step of a hundred standard deviations would make the next ones as long (Hansen 2011,
        arXiv 1110.4181; with the limit of pycma).
        """
        inner, count = self._inner._cma, len(sample)
        step = sample - self._inner.mean
        length = math.sqrt(step @ np.linalg.solve(inner._C, step)) / inner._sigma
        most = math.sqrt(count) + 2 * count / (count + 2)
        return np.asarray(sample if length <= most else self._inner.mean + step * most / length)


def create(genes: Sequence[Gene], setting: Setting) -> MarginCMA:
    """Return CMA-ES with margin."""
    return MarginCMA(Cube(genes, setting.sigma), setting.seed, setting.population)
