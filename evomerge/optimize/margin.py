"""CMA-ES with margin, by the package cmaes.

With plain CMA-ES, a discrete gene can become stuck at one value, since a small step does not change
it. The margin is a lower limit on the probability of the other values. Genomes without choices are
searched by CMA-ES with margin (Hamano et al. 2022, arXiv 2205.13482). Those with choices are
searched by CatCMA with margin (Hamano et al. 2025, arXiv 2504.07884), which learns a probability
for each value of a choice.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from cmaes import CatCMAwM, CMAwM

from evomerge.compat.cmaes import Normal, normal_of, normal_with_categories_of
from evomerge.optimize.base import Generations, Told, default_population
from evomerge.optimize.cube import Cube, Vector, levels
from evomerge.optimize.protocol import Setting
from evomerge.space.protocol import Gene


class MarginCMA(Generations[Vector]):
    """CMA-ES with margin. cmaes works in the coordinates z = point of the cube / initial step."""

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

    def propose(self) -> tuple[object, Vector]:
        """Return a sample of cmaes, and its point, in which discrete genes are rounded."""
        point, sample = self._inner.ask()
        return sample, point[: len(self.cube.genes)] * self.cube.step

    def update(self, told: list[Told[Vector]]) -> None:
        """Learn a generation, unless all its losses are equal."""
        if _are_equal(told):
            return
        normal, idle = normal_of(self._inner), np.zeros(self._idle)

        def sample(point: Vector) -> Vector:
            return _shortened(np.concatenate([point / self.cube.step, idle]), normal)

        self._inner.tell(
            [(sample(x.point) if x.sample is None else x.sample, x.loss) for x in told]
        )


class CategoryCMA(Generations[Any]):
    """CatCMA with margin: a normal distribution of numbers, and a probability of each choice.

    cmaes works in the coordinates z = point of the cube / initial step, with cells for choices,
    which are one-hot vectors to it.
    """

    def __init__(self, cube: Cube, seed: int, population: int | None) -> None:
        super().__init__(cube, population or default_population(len(cube.genes)))
        counts = [levels(gene) or 1 for gene in cube.genes]
        places = range(len(counts))
        self._choices = [place for place in places if _is_choice(cube.genes[place])]
        self._sizes = np.array([counts[place] for place in self._choices])
        # cmaes has real numbers first, then whole ones; a gene with one value is like a real one.
        others = [place for place in places if place not in set(self._choices)]
        self._reals = [place for place in others if counts[place] == 1]
        self._whole = [place for place in others if counts[place] > 1]
        self._numbers = [*self._reals, *self._whole]
        step = cube.step.tolist()
        ranges = [(0.0, 1 / step[place]) for place in self._reals]
        middles = [(np.arange(counts[at]) + 0.5) / counts[at] / step[at] for at in self._whole]
        start = cube.start / cube.step
        self._inner = CatCMAwM(
            x_space=ranges or None,
            z_space=middles or None,
            c_space=self._sizes.tolist(),
            population_size=self.population,
            mean=start[self._numbers] if self._numbers else None,
            sigma=1.0,
            cov=np.eye(len(self._numbers)) if self._numbers else None,
            seed=seed % 2**32,
        )

    def propose(self) -> tuple[object, Vector]:
        """Return a sample of cmaes, and its point, in which discrete genes are rounded."""
        sample = self._inner.ask()
        point = np.empty(len(self.cube.genes))
        if sample.x is not None:
            point[self._reals] = sample.x * self.cube.step[self._reals]
        if sample.z is not None:
            point[self._whole] = sample.z * self.cube.step[self._whole]
        point[self._choices] = (sample.c.argmax(axis=1) + 0.5) / self._sizes
        return sample, point

    def update(self, told: list[Told[Any]]) -> None:
        """Learn a generation, unless all its losses are equal."""
        if _are_equal(told):
            return
        with warnings.catch_warnings():
            # While half of the losses of each generation are equal, it takes the median of nothing.
            warnings.simplefilter("ignore")
            self._inner.tell(
                [(self._sample(x.point) if x.sample is None else x.sample, x.loss) for x in told]
            )

    def _sample(self, point: Vector) -> Any:
        """Return a point that cmaes did not propose as one of its samples."""
        chosen = np.floor(point[self._choices] * self._sizes).astype(int)
        values = np.zeros((len(chosen), self._sizes.max()), bool)
        values[np.arange(len(chosen)), chosen] = True
        if not self._numbers:
            return CatCMAwM.Solution(c=values)
        numbers = (point / self.cube.step)[self._numbers]
        normal = normal_with_categories_of(self._inner)
        return CatCMAwM.Solution(c=values, _v_raw=_shortened(numbers, normal))


def _shortened(sample: Vector, normal: Normal) -> Vector:
    """Return a point that cmaes did not propose, moved to the length of a likely step.

    A step of a hundred standard deviations would make the next ones as long (Hansen 2011,
    arXiv 1110.4181; with the limit of pycma).
    """
    step, count = sample - normal.mean, len(sample)
    length = math.sqrt(step @ np.linalg.solve(normal.covariance, step)) / normal.sigma
    most = math.sqrt(count) + 2 * count / (count + 2)
    return np.asarray(sample if length <= most else normal.mean + step * most / length)


def _are_equal(told: Sequence[Told[Any]]) -> bool:
    """Whether a generation says nothing; learning it would move the distribution at random."""
    return len({item.loss for item in told}) == 1


def _is_choice(gene: Gene) -> bool:
    return gene.kind == "choice" and gene.high > 0


def create(genes: Sequence[Gene], setting: Setting) -> MarginCMA | CategoryCMA:
    """Return CMA-ES with margin, for genomes with choices that with categories."""
    cube = Cube(genes, setting.sigma, choices="cells")
    kind = CategoryCMA if any(map(_is_choice, genes)) else MarginCMA
    return kind(cube, setting.seed, setting.population)
