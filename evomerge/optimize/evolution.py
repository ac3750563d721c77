"""nevergrad's optimizers behind the protocol: differential evolution, particle swarm, (1+1).

nevergrad sees z = (point of the cube - start) / step, so that every coordinate starts at 0 with
a standard deviation of 1. It always gets one worker and no budget: both would change what it
proposes, and how many trials are open is the search's business.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import nevergrad
import numpy as np
from nevergrad.optimization.utils import UidQueue

from evomerge.optimize.base import Trials
from evomerge.optimize.cube import Cube, Vector
from evomerge.space.protocol import Gene


class Nevergrad(Trials):
    """An optimizer of nevergrad's, kept inside of the cube by clipping.

    Args:
        cube: the genes' coordinate system.
        seed: seed of all its random numbers, 0 or more.
        configured: nevergrad's `ConfiguredOptimizer`.
        population: trials in a generation.
    """

    def __init__(self, cube: Cube, seed: int, configured: Any, population: int) -> None:
        super().__init__(cube, population)
        low, high = -cube.start / cube.step, (1 - cube.start) / cube.step
        parameter = nevergrad.p.Array(shape=(len(cube.genes),))
        parameter.random_state = np.random.RandomState(seed % 2**32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # nevergrad warns of any sigma above a third
            parameter.set_bounds(low, high, method="clipping", full_range_sampling=False)
        self._inner = configured(parameter, budget=None, num_workers=1)
        if hasattr(self._inner, "_uid_queue"):
            self._inner._uid_queue = Parents()

    def propose(self) -> tuple[object, Vector]:
        """Return nevergrad's candidate and its point."""
        candidate = self._inner.ask()
        return candidate, self.cube.start + self.cube.step * candidate.value

    def learn(self, handle: object, point: Vector, loss: float) -> None:
        """Tell nevergrad a loss, also of a point that it did not propose."""
        candidate: Any = handle
        if candidate is None:
            z = (point - self.cube.start) / self.cube.step
            candidate = self._inner.parametrization.spawn_child(new_value=z)
        self._inner.tell(candidate, loss)


class Parents(UidQueue):  # type: ignore[misc]
    """The order in which members of a population get children, each member in it once.

    nevergrad's own adds a member for every child that is told. One with two open children is then
    in it twice, and when a better point takes its place in the population, only once removed:
    the next `ask` fails.
    """

    def tell(self, uid: str) -> None:
        """Put a member last, unless it waits already."""
        if uid not in self.told:
            super().tell(uid)


def create_de(
    genes: Sequence[Gene], seed: int, population: int | None, sigma: float, budget: int | None
) -> Nevergrad:
    """Return differential evolution (Storn & Price 1997; curr-to-best, F = 0.8)."""
    return _differential(Cube(genes, sigma), seed, population, crossover=0.5)


def create_two_points_de(
    genes: Sequence[Gene], seed: int, population: int | None, sigma: float, budget: int | None
) -> Nevergrad:
    """Return differential evolution whose children inherit one stretch of neighbouring genes."""
    return _differential(Cube(genes, sigma), seed, population, crossover="twopoints")


def create_pso(
    genes: Sequence[Gene], seed: int, population: int | None, sigma: float, budget: int | None
) -> Nevergrad:
    """Return particle swarm optimization (Clerc 2011's constants) in real coordinates."""
    size = population or 40
    configured = nevergrad.optimizers.ConfPSO(transform="identity", popsize=size)
    return Nevergrad(Cube(genes, sigma), seed, configured, size)


def create_one_plus_one(
    genes: Sequence[Gene], seed: int, population: int | None, sigma: float, budget: int | None
) -> Nevergrad:
    """Return the (1+1) evolution strategy: one parent, one child, the better one stays."""
    return _one_plus_one(Cube(genes, sigma), seed, "gaussian")


def create_discrete_lengler(
    genes: Sequence[Gene], seed: int, population: int | None, sigma: float, budget: int | None
) -> Nevergrad:
    """Return (1+1) that redraws ever fewer genes at a time (Einarsson et al. 2018)."""
    return _one_plus_one(Cube(genes, sigma), seed, "lengler")


def _differential(
    cube: Cube, seed: int, population: int | None, crossover: float | str
) -> Nevergrad:
    size = population or 30
    configured = nevergrad.optimizers.DifferentialEvolution(popsize=size, crossover=crossover)
    return Nevergrad(cube, seed, configured, size)


def _one_plus_one(cube: Cube, seed: int, mutation: str) -> Nevergrad:
    configured = nevergrad.optimizers.ParametrizedOnePlusOne(mutation=mutation)
    return Nevergrad(cube, seed, configured, population=1)
