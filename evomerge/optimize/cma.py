"""CMA-ES with the settings of evolutionary model merge (arXiv 2403.13187), by the package pycma."""

from __future__ import annotations

import signal
import threading
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from evomerge.optimize.base import Generations, Told, default_population
from evomerge.optimize.cube import Cube, Vector
from evomerge.optimize.protocol import Setting
from evomerge.space.protocol import Gene

TWO_POINT_GENES = 300
"""With this many genes or more, the step size is adapted by two mirrored points in each generation,
as in pycma. The usual adaptation (CSA) would need more than a thousand trials to shorten steps."""


@contextmanager
def _signals_after() -> Iterator[None]:
    """Let SIGINT and SIGTERM wait until the block ends.

    pycma catches every exception in many places, when it is imported and when it samples, so a
    KeyboardInterrupt could be lost there.
    """
    received: list[int] = []
    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, lambda caught, _: received.append(caught))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for caught in received:
            signal.raise_signal(caught)


@dataclass(frozen=True)
class _Sample:
    """A sample of pycma, `z` in its coordinates, drawn around `mean`."""

    z: Vector
    mean: Vector
    generation: int
    mirrored: int | None  # which of the two mirrored samples of its generation it is, 0 or 1


class CMA(Generations[_Sample]):
    """CMA-ES (Hansen & Ostermeier 2001).

    pycma works in the coordinates z = (point of the cube - start) / step, in which the initial mean
    is 0 and the initial standard deviation 1. Bounds are handled by pycma (a piecewise quadratic
    transformation), which finds optima on a bound best. pycma's stop criteria are not used: scores
    have few distinct values, so a plateau does not mean that the search has converged.

    Args:
        diagonal: whether to learn variances only (Ros & Hansen 2008), which takes fewer trials if
            there are many genes.
    """

    def __init__(self, cube: Cube, seed: int, population: int | None, diagonal: bool) -> None:
        super().__init__(cube, population or default_population(len(cube.genes)))
        # pycma needs two dimensions: a single gene gets a second one that has no effect.
        self._idle = max(0, 2 - len(cube.start))
        idle = np.ones(self._idle)
        self._low = np.append((cube.low - cube.start) / cube.step, -idle)
        self._high = np.append((cube.high - cube.start) / cube.step, idle)
        self._two_point = len(cube.start) >= TWO_POINT_GENES
        self._diagonal, self._random = diagonal, np.random.RandomState(seed % 2**32)
        self._samples: deque[_Sample] = deque()
        self._sampled = False

    @cached_property
    def _es(self) -> Any:
        """pycma's strategy. It is made at the first use, since importing pycma takes a second."""
        from evomerge.optimize.pycma import evolution_strategy

        return evolution_strategy(
            low=self._low,
            high=self._high,
            population=self.population,
            diagonal=self._diagonal,
            two_point=self._two_point,
            random=self._random,
        )

    def propose(self) -> tuple[object, Vector]:
        """Return a sample, and its point."""
        if not self._samples:
            with _signals_after():
                self._sample()
        sample = self._samples.popleft()
        return sample, self.cube.start + self.cube.step * sample.z[: len(self.cube.start)]

    def _sample(self) -> None:
        """Sample a generation.

        With two-point adaptation, later samples before the next update are single points, because
        pycma gives mirrored points for one generation only.
        """
        es, single = self._es, self._sampled and self._two_point
        mirrored = 2 if self._two_point and not single else 0
        mean, generation = self._current_mean(), es.countiter
        self._samples.extend(
            _Sample(z, mean, generation, number if number < mirrored else None)
            for number, z in enumerate(es.ask(1) if single else es.ask())
        )
        self._sampled = True

    def update(self, told: list[Told[_Sample]]) -> None:
        """Learn a generation; one of equal losses says nothing, and would move it at random."""
        losses = [item.loss for item in told]
        if min(losses) < max(losses):
            with _signals_after():
                self._tell(told)

    def _tell(self, told: list[Told[_Sample]]) -> None:
        if not self._sampled:
            # pycma refuses two updates without a sample between them. This would happen if several
            # generations were asked before the first was told.
            self._es.ask(2 if self._two_point else 1)
        if self._two_point:
            told = self._mirrored_first(told)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pycma warns of long steps and shortens them itself
            self._es.tell([self._coordinates(item) for item in told], [item.loss for item in told])
        self._sampled = False
        if self._two_point:
            self._samples.clear()  # so that the next samples begin with a mirrored pair again

    def _current_mean(self) -> Vector:
        return np.array(self._es.gp.pheno(self._es.mean))

    def _coordinates(self, told: Told[_Sample]) -> Vector:
        """Return what pycma is told of a sample.

        While many trials are open, the mean moves on before a sample is told, and old samples would
        pull it back to where it was. With hundreds of genes, where the mean moves by a small part
        of a step, a sample is told as its step from the mean of its time. With few genes the mean
        would go the same way several times, and too far.
        """
        if told.sample is None:
            return np.append((told.point - self.cube.start) / self.cube.step, [0.0] * self._idle)
        sample, mean = told.sample, self._current_mean()
        if not self._two_point or np.array_equal(mean, sample.mean):
            return sample.z
        return np.clip(sample.z + (mean - sample.mean), self._low, self._high)

    def _mirrored_first(self, told: list[Told[_Sample]]) -> list[Told[_Sample]]:
        """Return a generation that begins with its latest mirrored pair, as pycma assumes."""
        pairs: dict[int, dict[int, Told[_Sample]]] = {}
        for item in told:
            if item.sample is not None and item.sample.mirrored is not None:
                pairs.setdefault(item.sample.generation, {})[item.sample.mirrored] = item
        whole = [generation for generation, pair in pairs.items() if len(pair) == 2]
        self._es.adapt_sigma.has_pair = bool(whole)
        if not whole:
            return told
        first = [item for _, item in sorted(pairs[max(whole)].items())]
        return [*first, *(item for item in told if not any(item is one for one in first))]


def create_full(genes: Sequence[Gene], setting: Setting) -> CMA:
    """Return CMA-ES that learns the full covariance of the genes."""
    return CMA(Cube(genes, setting.sigma), setting.seed, setting.population, diagonal=False)


def create_diagonal(genes: Sequence[Gene], setting: Setting) -> CMA:
    """Return CMA-ES that learns variances only."""
    return CMA(Cube(genes, setting.sigma), setting.seed, setting.population, diagonal=True)
