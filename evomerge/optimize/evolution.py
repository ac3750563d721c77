"""Optimizers of the package nevergrad: differential evolution, particle swarm, (1+1).

nevergrad works in the coordinates z = (point of the cube - start) / step, in which the search
starts at 0 with a standard deviation of 1. It is always told of one worker and no budget, because
its proposals depend on both, while those of a search must not.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import nevergrad
import numpy as np
from nevergrad.optimization.utils import UidQueue

from evomerge.optimize.base import BaseOptimizer
from evomerge.optimize.cube import Cube, Vector
from evomerge.optimize.setting import Setting
from evomerge.space.protocol import Gene


class Nevergrad(BaseOptimizer):
    """An optimizer of nevergrad; its proposals are clipped to the cube.

    Args:
        cube: the coordinate system of the genes.
        seed: seed of all random numbers, 0 or more.
        configured: nevergrad's `ConfiguredOptimizer`.
        population: trials in a generation.
    """

    def __init__(self, cube: Cube, seed: int, configured: Any, population: int) -> None:
        super().__init__(cube, population)
        low, high = -cube.start / cube.step, (1 - cube.start) / cube.step
        parameter = nevergrad.p.Array(shape=(len(cube.genes),))
        parameter.random_state = np.random.RandomState(seed % 2**32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # nevergrad warns of every sigma above 1/3
            parameter.set_bounds(low, high, method="clipping", full_range_sampling=False)
        self._inner = configured(parameter, budget=None, num_workers=1)
        if hasattr(self._inner, "_uid_queue"):
            self._inner._uid_queue = ParentQueue()

    def propose(self) -> tuple[object, Vector]:
        """Return nevergrad's candidate and its point."""
        candidate = self._inner.ask()
        return candidate, self.cube.start + self.cube.step * candidate.value

    def learn(self, handle: object, point: Vector, loss: float) -> None:
        """Tell nevergrad the loss of a point, which need not be one that it proposed."""
        candidate: Any = handle
        if candidate is None:
            z = (point - self.cube.start) / self.cube.step
            candidate = self._inner.parametrization.spawn_child(new_value=z)
        self._inner.tell(candidate, loss)


class ParentQueue(UidQueue):  # type: ignore[misc]
    """The queue of population members that wait for their next child; holds each member once.

    nevergrad's own queue adds a member for every child that is told, so a member with two open
    children is added twice. When a better point replaces the member in the population, it is
    removed only once, and a later `ask` fails.
    """

    def tell(self, uid: str) -> None:
        """Add a member at the end, unless it is in the queue already."""
        if uid not in self.told:
            super().tell(uid)


def create_de(genes: Sequence[Gene], setting: Setting) -> Nevergrad:
    """Return differential evolution (Storn & Price 1997; curr-to-best, F = 0.8)."""
    return _differential(
        Cube(genes, setting.sigma), setting.seed, setting.population, crossover=0.5
    )


def create_two_points_de(genes: Sequence[Gene], setting: Setting) -> Nevergrad:
    """Return differential evolution with two-point crossover.

    A child takes one run of neighbouring genes from either mutant or parent, all others from the
    other one.
    """
    return _differential(
        Cube(genes, setting.sigma), setting.seed, setting.population, crossover="twopoints"
    )


def create_pso(genes: Sequence[Gene], setting: Setting) -> Nevergrad:
    """Return particle swarm optimization with the constants of Clerc 2011."""
    size = setting.population or 40
    configured = nevergrad.optimizers.ConfPSO(transform="identity", popsize=size)
    return Nevergrad(Cube(genes, setting.sigma), setting.seed, configured, size)


def create_one_plus_one(genes: Sequence[Gene], setting: Setting) -> Nevergrad:
    """Return the (1+1) evolution strategy: the better one of parent and child is the next parent.

    A child is its parent plus Gaussian noise.
    """
    return _one_plus_one(Cube(genes, setting.sigma), setting.seed, "gaussian")


def create_discrete_lengler(genes: Sequence[Gene], setting: Setting) -> Nevergrad:
    """Return a (1+1) strategy that draws fewer and fewer genes anew (Einarsson et al. 2018)."""
    return _one_plus_one(Cube(genes, setting.sigma), setting.seed, "lengler")


def _differential(
    cube: Cube, seed: int, population: int | None, crossover: float | str
) -> Nevergrad:
    size = population or 30
    configured = nevergrad.optimizers.DifferentialEvolution(popsize=size, crossover=crossover)
    return Nevergrad(cube, seed, configured, size)


def _one_plus_one(cube: Cube, seed: int, mutation: str) -> Nevergrad:
    configured = nevergrad.optimizers.ParametrizedOnePlusOne(mutation=mutation)
    return Nevergrad(cube, seed, configured, population=1)
