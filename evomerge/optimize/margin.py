"""CMA-ES with margin, of genes that are not all real, by the package cmaes.

It works in units of the initial steps, and learns a generation at a time.
"""

import math
import warnings
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from evomerge.compat.cmaes import (
    Normal,
    normal_of,
    normal_with_categories_of,
    probabilities_of,
)
from evomerge.optimize.base import Cube, Vector
from evomerge.optimize.cma import Generations, Trial
from evomerge.optimize.protocol import Setting
from evomerge.space.protocol import Gene


class _Cmaes(Generations[Any]):
    """An optimizer of cmaes, which works in the coordinates z = point of the cube / initial step.

    With plain CMA-ES, a discrete gene can become stuck at one value, since a small step does not
    change it. The margin is a lower limit on the probability of the other values.
    """

    _inner: Any

    def update(self, trials: list[Trial[Any]]) -> None:
        """Learn a generation."""
        samples = [self._sample(x.point) if x.sample is None else x.sample for x in trials]
        # While half of the losses of each generation are equal, it takes the median of nothing.
        with warnings.catch_warnings(action="ignore"):
            self._inner.tell(list(zip(samples, (x.loss for x in trials), strict=True)))

    @abstractmethod
    def _sample(self, point: Vector) -> Any:
        """Return a point that cmaes did not propose as one of its samples."""


class MarginCMA(_Cmaes):
    """CMA-ES with margin (Hamano et al. 2022, arXiv 2205.13482), for genomes without choices."""

    def __init__(self, cube: Cube, setting: Setting) -> None:
        from cmaes import CMAwM

        super().__init__(cube, setting)
        cells = cube.levels
        edges = [(0.5 / k, 1 - 0.5 / k) if k else (0.0, 1.0) for k in cells]
        steps = np.array([1 / k if k else 0.0 for k in cells])
        # cmaes needs two dimensions: a single gene gets a second one that has no effect.
        self._idle = np.zeros(max(0, 2 - len(cells)))
        ends = [np.array(edges) / cube.step[:, None], np.tile((-1.0, 1.0), (len(self._idle), 1))]
        self._inner = CMAwM(
            mean=np.append(cube.start / cube.step, self._idle),
            sigma=1.0,
            bounds=np.concatenate(ends),
            steps=np.append(steps / cube.step, self._idle),
            # Clip samples at once. By default they are drawn again up to 100 times until all genes
            # are inside, which is slow if many optima lie on bounds, and no better.
            n_max_resampling=0,
            seed=setting.seed % 2**32,
            population_size=self.population,
        )

    def propose(self) -> tuple[object, Vector]:
        """Return a sample of cmaes, and its point, in which discrete genes are rounded."""
        point, sample = self._inner.ask()
        return sample, point[: len(self.cube.genes)] * self.cube.step

    @property
    def mean(self) -> Vector:
        """The point around which samples are drawn; the genome of it rounds discrete genes."""
        return np.asarray(normal_of(self._inner).mean[: len(self.cube.genes)] * self.cube.step)

    def _sample(self, point: Vector) -> Vector:
        return _shortened(np.append(point / self.cube.step, self._idle), normal_of(self._inner))


class CategoryCMA(_Cmaes):
    """CatCMA with margin (Hamano et al. 2025, arXiv 2504.07884), for genomes with choices.

    It learns a normal distribution of numbers, and a probability of each value of a choice, which
    is a one-hot vector to cmaes.
    """

    def __init__(self, cube: Cube, setting: Setting) -> None:
        from cmaes import CatCMAwM

        super().__init__(cube, setting)
        counts = [count or 1 for count in cube.levels]
        self._choices = [at for at, gene in enumerate(cube.genes) if _is_choice(gene)]
        self._sizes = np.array([counts[at] for at in self._choices])
        numbers = [at for at in range(len(counts)) if at not in self._choices]
        # cmaes has real numbers first, then whole ones; a gene with one value is like a real one.
        self._reals = [at for at in numbers if counts[at] == 1]
        self._whole = [at for at in numbers if counts[at] > 1]
        self._numbers = [*self._reals, *self._whole]
        step, start, numbers = cube.step.tolist(), cube.start / cube.step, self._numbers
        middles = [(np.arange(counts[at]) + 0.5) / counts[at] / step[at] for at in self._whole]
        self._inner = CatCMAwM(
            x_space=[(0.0, 1 / step[at]) for at in self._reals] or None,
            z_space=middles or None,
            c_space=self._sizes.tolist(),
            population_size=self.population,
            mean=start[numbers] if numbers else None,
            sigma=1.0,
            cov=np.eye(len(numbers)) if numbers else None,
            seed=setting.seed % 2**32,
        )

    def propose(self) -> tuple[object, Vector]:
        """Return a sample of cmaes, and its point, in which discrete genes are rounded."""
        sample = self._inner.ask()
        point = np.empty(len(self.cube.genes))
        for values, places in ((sample.x, self._reals), (sample.z, self._whole)):
            if values is not None:
                point[places] = values * self.cube.step[places]
        point[self._choices] = (sample.c.argmax(axis=1) + 0.5) / self._sizes
        return sample, point

    @property
    def mean(self) -> Vector:
        """The mean of numbers, and the likeliest value of each choice."""
        point = np.empty(len(self.cube.genes))
        if self._numbers:
            mean = normal_with_categories_of(self._inner).mean
            point[self._numbers] = mean * self.cube.step[self._numbers]
        likeliest = probabilities_of(self._inner).argmax(axis=1)
        point[self._choices] = (likeliest + 0.5) / self._sizes
        return point

    def _sample(self, point: Vector) -> Any:
        values = np.floor(point[self._choices] * self._sizes).astype(int)
        one_hot = np.arange(self._sizes.max()) == values[:, None]
        if not self._numbers:
            return self._inner.Solution(c=one_hot)
        numbers = (point / self.cube.step)[self._numbers]
        normal = normal_with_categories_of(self._inner)
        return self._inner.Solution(c=one_hot, _v_raw=_shortened(numbers, normal))


def _shortened(sample: Vector, normal: Normal) -> Vector:
    """Return a point that cmaes did not propose, moved to the length of a likely step.

    A step of a hundred standard deviations would make the next ones as long (Hansen 2011,
    arXiv 1110.4181; with the limit of pycma).
    """
    step, count = sample - normal.mean, len(sample)
    length = math.sqrt(step @ np.linalg.solve(normal.covariance, step)) / normal.sigma
    most = math.sqrt(count) + 2 * count / (count + 2)
    return np.asarray(sample if length <= most else normal.mean + step * most / length)


def _is_choice(gene: Gene) -> bool:
    return gene.kind == "choice" and gene.high > 0


def create_margin(genes: Sequence[Gene], setting: Setting) -> MarginCMA | CategoryCMA:
    """Return CMA-ES with margin, by probabilities where a gene is a choice."""
    cube = Cube(genes, setting.sigma, choices="cells")
    return CategoryCMA(cube, setting) if any(map(_is_choice, genes)) else MarginCMA(cube, setting)
