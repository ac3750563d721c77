"""nevergrad's optimizers behind the protocol: CMA-ES, DE, PSO, (1+1).

nevergrad sees z = (point of the cube - start) / step, so that every coordinate starts at 0 with
a standard deviation of 1. It always gets one worker and no budget: both would change what it
proposes, and how many trials are open is the search's business.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from evomerge.errors import ConfigError
from evomerge.optimize.base import Trials
from evomerge.optimize.cube import Cube, Vector

SMALLEST_STEP = 1e-7
"""Floor of CMA-ES's standard deviations in first steps: far below what a recipe resolves, and
far enough from rounding that a converged search never degenerates."""

LARGEST_LOSS = 1e20
"""Losses are cut off here; nevergrad clips larger ones itself, with a warning."""


class Nevergrad(Trials):
    """An optimizer of nevergrad's, kept inside of the cube by clipping.

    Args:
        cube: the genes' coordinate system.
        seed: seed of all its random numbers.
        configured: nevergrad's `ConfiguredOptimizer`.
        population: trials in a generation.
        bounded: whether nevergrad itself clips (CMA-ES has bounds of its own).
    """

    def __init__(
        self, cube: Cube, seed: int, configured: Any, population: int, bounded: bool = True
    ) -> None:
        super().__init__(cube, population)
        ng = _nevergrad()
        parameter = ng.p.Array(shape=(padded(cube),))
        parameter.random_state = np.random.RandomState(seed % 2**32)
        if bounded:
            low, high = _bounds(cube)
            with _quiet():
                parameter.set_bounds(low, high, method="clipping", full_range_sampling=False)
        self._inner = configured(parameter, budget=None, num_workers=1)

    def propose(self) -> tuple[object, Vector]:
        """Return nevergrad's candidate and its point."""
        candidate = self._inner.ask()
        z: Vector = candidate.value[: len(self.cube.genes)]
        return candidate, self.cube.start + self.cube.step * z

    def learn(self, handle: object, point: Vector, loss: float) -> None:
        """Tell nevergrad, a stranger's point as one that it did not ask for."""
        candidate: Any = handle
        if candidate is None:
            z = np.zeros(padded(self.cube))
            z[: len(point)] = (point - self.cube.start) / self.cube.step
            candidate = self._inner.parametrization.spawn_child(new_value=z)
        with _quiet():
            self._inner.tell(candidate, max(-LARGEST_LOSS, min(LARGEST_LOSS, loss)))


class CMA(Nevergrad):
    """CMA-ES (Hansen & Ostermeier 2001) as evolutionary model merge used it (arXiv 2403.13187).

    Population 4 + floor(3 ln n), the first mean at the genes' start, no restarts: pycma's stop
    criteria, at which nevergrad would begin anew without a word, are off, since accuracies come
    in steps and a plateau is no convergence. Bounds are pycma's own (a piecewise quadratic
    transformation), which settles best on optima that lie on the bounds.

    Args:
        cube: the genes' coordinate system.
        seed: seed of all its random numbers.
        population: trials in a generation, 4 or more, or None for 4 + floor(3 ln n).
        diagonal: learn variances only (Ros & Hansen 2008): less to learn in many dimensions.
    """

    def __init__(self, cube: Cube, seed: int, population: int | None, diagonal: bool) -> None:
        population = population or default_population(len(cube.genes))
        options: Mapping[str, Any] = {
            "bounds": [bound.tolist() for bound in _bounds(cube)],
            "minstd": SMALLEST_STEP,
            "signals_filename": None,
        }
        configured = _nevergrad().optimizers.ParametrizedCMA(
            scale=1.0, popsize=population, diagonal=diagonal, inopts=options
        )
        super().__init__(cube, seed, configured, population, bounded=False)
        with _quiet():
            self._inner.es.stop = dict
        self._samples = self._losses = self._generations = 0

    def propose(self) -> tuple[object, Vector]:
        """Return nevergrad's candidate and its point."""
        if self._samples % self.population == 0:
            self._generations += 1
        self._samples += 1
        return super().propose()

    def learn(self, handle: object, point: Vector, loss: float) -> None:
        """Tell nevergrad; every `population` losses pycma updates its distribution.

        pycma refuses a second update without a sample in between, and nevergrad would drop such
        a generation silently. It happens when many points were suggested, or two generations
        were asked before the first was told; one extra sample opens pycma's next iteration.
        """
        self._losses += 1
        if self._losses % self.population == 0:
            if self._generations == 0:
                self._inner.es.ask(1)
            self._generations = 0
        super().learn(handle, point, loss)


def default_population(genes: int) -> int:
    """Return CMA-ES's population for a number of genes: 4 + floor(3 ln n)."""
    return 4 + int(3 * math.log(max(2, genes)))


def differential(cube: Cube, seed: int, population: int | None, crossover: float | str) -> Trials:
    """Return differential evolution (Storn & Price 1997; curr-to-best, F = 0.8)."""
    size = population or 30
    configured = _nevergrad().optimizers.DifferentialEvolution(popsize=size, crossover=crossover)
    return Nevergrad(cube, seed, configured, size)


def swarm(cube: Cube, seed: int, population: int | None) -> Trials:
    """Return particle swarm optimization (Clerc 2011's constants) in real coordinates."""
    size = population or 40
    configured = _nevergrad().optimizers.ConfPSO(transform="identity", popsize=size)
    return Nevergrad(cube, seed, configured, size)


def one_plus_one(cube: Cube, seed: int, mutation: str) -> Trials:
    """Return the (1+1) evolution strategy: one parent, one child, the better one stays."""
    configured = _nevergrad().optimizers.ParametrizedOnePlusOne(mutation=mutation)
    return Nevergrad(cube, seed, configured, population=1)


def padded(cube: Cube) -> int:
    """Return the number of coordinates nevergrad sees: a lone gene gets an idle companion.

    nevergrad swaps CMA-ES for another package in one dimension.
    """
    return max(2, len(cube.genes))


def _bounds(cube: Cube) -> tuple[Vector, Vector]:
    low, high = -np.ones(padded(cube)), np.ones(padded(cube))
    low[: len(cube.genes)] = -cube.start / cube.step
    high[: len(cube.genes)] = (1 - cube.start) / cube.step
    return low, high


def _nevergrad() -> Any:
    try:
        with _quiet():
            import nevergrad
    except ImportError as error:
        raise ConfigError(
            f"This optimizer needs nevergrad, which cannot be imported here ({error}); "
            "reinstall evomerge, or set optimizer.name to `random` or `cma-margin`."
        ) from error
    return nevergrad


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep warnings of nevergrad and pycma (plots, bounds, long steps) from the terminal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
