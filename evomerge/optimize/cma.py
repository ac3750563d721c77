"""CMA-ES as evolutionary model merge used it (arXiv 2403.13187), through pycma's ask and tell."""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Sequence
from typing import Any

import cma
import numpy as np
from cma.sigma_adaptation import CMAAdaptSigmaCSA, CMAAdaptSigmaTPA

from evomerge.optimize.base import Trials, default_population
from evomerge.optimize.cube import Cube, Vector
from evomerge.space.protocol import Gene

MANY_GENES = 200
"""Above this many genes `auto` learns variances only: full covariance costs more than it finds."""

SMALLEST_STEP = 1e-7
"""Floor of the standard deviations, in first steps: far below what a recipe resolves, and far
enough from rounding errors that a converged search never degenerates."""

TWO_POINT_GENES = 300
"""From this many genes on, the step size follows two mirrored points in each generation, as in
pycma; the ordinary rule (CSA) would need more than a thousand trials to shorten its steps."""


class TwoPointAdaptation(CMAAdaptSigmaTPA):  # type: ignore[misc]
    """pycma's two-point step-size adaptation (Hansen 2008) without its self-check.

    The self-check draws from numpy's global generator.
    """

    def check_consistency(self, es: object) -> None:
        """Check nothing."""


class CMA(Trials):
    """CMA-ES (Hansen & Ostermeier 2001) without restarts.

    pycma sees z = (point of the cube - start) / step: the first mean is 0 and the first standard
    deviation 1 in every coordinate. Bounds are pycma's own (a piecewise quadratic transformation),
    which settles best on optima that lie on a bound. Its stop criteria are never consulted: scores
    come in steps, so a plateau does not mean that the search has converged.

    Args:
        cube: the genes' coordinate system.
        seed: seed of all its random numbers, 0 or more.
        population: trials in a generation, 4 or more, or None for 4 + floor(3 ln n).
        diagonal: learn variances only (Ros & Hansen 2008): less to learn where genes are many.
    """

    def __init__(self, cube: Cube, seed: int, population: int | None, diagonal: bool) -> None:
        super().__init__(cube, population or default_population(len(cube.genes)))
        # pycma does not support a single dimension: a lone gene gets an idle companion.
        self._idle = max(0, 2 - len(cube.genes))
        low = [*(-cube.start / cube.step), *[-1.0] * self._idle]
        high = [*((1 - cube.start) / cube.step), *[1.0] * self._idle]
        self._two_point = len(low) >= TWO_POINT_GENES
        self._es: Any = cma.CMAEvolutionStrategy(
            [0.0] * len(low),
            1.0,
            {
                "bounds": [low, high],
                "popsize": self.population,
                "CMA_diagonal": diagonal,
                "AdaptSigma": TwoPointAdaptation if self._two_point else CMAAdaptSigmaCSA,
                "minstd": SMALLEST_STEP,
                # pycma seeds and reads numpy's global generator unless it is given another one.
                "randn": np.random.RandomState(seed % 2**32).randn,
                "seed": math.nan,
                "verbose": -9,
            },
        )
        self._samples: deque[Vector] = deque()
        self._mirrored: list[Vector] = []
        self._told: list[tuple[Vector, float]] = []
        self._sampled = False

    def propose(self) -> tuple[object, Vector]:
        """Return a sample in pycma's coordinates, and its point."""
        if not self._samples:
            self._sample()
        z = self._samples.popleft()
        return z, self.cube.start + self.cube.step * z[: len(self.cube.genes)]

    def learn(self, handle: object, point: Vector, loss: float) -> None:
        """Collect a loss; every `population` of them update the distribution.

        It does not matter in which generation they were asked. A point that pycma did not propose
        is moved by it towards the mean, to the length of a likely step (Hansen 2011).
        """
        z: Any = handle
        if z is None:
            z = np.append((point - self.cube.start) / self.cube.step, [0.0] * self._idle)
        self._told.append((z, loss))
        if len(self._told) == self.population:
            self._update()

    def _sample(self) -> None:
        """Draw a generation, or one more point if a generation was drawn since the last update.

        pycma has the mirrored points for one generation only.
        """
        if self._sampled and self._two_point:
            self._samples.extend(self._es.ask(1))
            return
        self._samples.extend(self._es.ask())
        self._mirrored = [self._samples[0], self._samples[1]] if self._two_point else []
        self._sampled = True

    def _update(self) -> None:
        if not self._sampled:
            # pycma refuses two updates without a sample between them. That happens when several
            # generations were asked before the first was told, or many points enqueued.
            self._es.ask(2 if self._two_point else 1)
        points, losses = zip(*sorted(self._told, key=self._place), strict=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pycma warns of long steps, which it shortens itself
            self._es.tell(points, losses)
        self._told, self._sampled = [], False
        if self._two_point:
            self._samples.clear()  # or a mirrored pair might be told in two generations, for ever

    def _place(self, told: tuple[Vector, float]) -> int:
        """Return a sorting key: pycma takes the first two points it is told for the mirrored."""
        places = [i for i, point in enumerate(self._mirrored) if point is told[0]]
        return places[0] if places else len(self._mirrored)


def create_full(
    genes: Sequence[Gene], seed: int, population: int | None, sigma: float, budget: int | None
) -> CMA:
    """Return CMA-ES that learns the full covariance of the genes."""
    return CMA(Cube(genes, sigma), seed, population, diagonal=False)


def create_diagonal(
    genes: Sequence[Gene], seed: int, population: int | None, sigma: float, budget: int | None
) -> CMA:
    """Return CMA-ES that learns variances only."""
    return CMA(Cube(genes, sigma), seed, population, diagonal=True)


def create_auto(
    genes: Sequence[Gene], seed: int, population: int | None, sigma: float, budget: int | None
) -> CMA:
    """Return CMA-ES with full covariance for few genes, with variances only for many."""
    return CMA(Cube(genes, sigma), seed, population, diagonal=len(genes) > MANY_GENES)
