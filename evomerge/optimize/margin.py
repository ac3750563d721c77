"""CMA-ES with margin (Hamano et al. 2022, arXiv 2205.13482), through the package cmaes.

Keeps a least probability of every other value of a discrete gene, where plain CMA-ES freezes it:
for genomes with many binary or choice genes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from cmaes import CMAwM

from evomerge.optimize.base import Trials, default_population
from evomerge.optimize.cube import Cube, Vector, levels
from evomerge.space.protocol import Gene


class MarginCMA(Trials):
    """CMA-ES with margin; cmaes sees points of the cube divided by the genes' first steps.

    Args:
        cube: the genes' coordinate system.
        seed: seed of all its random numbers.
        population: trials in a generation, 4 or more, or None for 4 + floor(3 ln n).
    """

    def __init__(self, cube: Cube, seed: int, population: int | None) -> None:
        super().__init__(cube, population or default_population(len(cube.genes)))
        cells = [levels(gene) for gene in cube.genes]
        edges = [(0.5 / k, 1 - 0.5 / k) if k else (0.0, 1.0) for k in cells]
        steps = np.array([1 / k if k else 0.0 for k in cells])
        # cmaes wants two dimensions at least: a lone gene gets an idle companion.
        self._idle = max(0, 2 - len(cells))
        idle = np.zeros(self._idle)
        self._inner = CMAwM(
            mean=np.concatenate([cube.start / cube.step, idle]),
            sigma=1.0,
            bounds=np.concatenate(
                [np.array(edges) / cube.step[:, None], np.tile((-1.0, 1.0), (self._idle, 1))]
            ),
            steps=np.concatenate([steps / cube.step, idle]),
            # Clip at once: drawing anew until all genes lie inside takes 100 draws where many
            # optima lie on the bounds, and finds them no better.
            n_max_resampling=0,
            seed=seed % 2**32,
            population_size=self.population,
        )
        self._generation: list[tuple[Vector, float]] = []

    def propose(self) -> tuple[object, Vector]:
        """Return cmaes's unrounded sample, and the point it stands for."""
        point, sample = self._inner.ask()
        return sample, point[: len(self.cube.genes)] * self.cube.step

    def learn(self, handle: object, point: Vector, loss: float) -> None:
        """Collect losses; a full generation updates the distribution."""
        sample: Any = handle
        if sample is None:
            sample = np.concatenate([point / self.cube.step, np.zeros(self._idle)])
        self._generation.append((sample, loss))
        if len(self._generation) == self.population:
            self._inner.tell(self._generation)
            self._generation = []


def create(
    genes: Sequence[Gene], seed: int, population: int | None, sigma: float, budget: int | None
) -> MarginCMA:
    """Return CMA-ES with margin."""
    return MarginCMA(Cube(genes, sigma), seed, population)
