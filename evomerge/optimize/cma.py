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


SHORT = 0.1
"""Steps count as short below this share of the initial ones."""

SMALL = 1e-9
"""A gain counts as small up to this share of the gain since the first generation."""

GENERATIONS = 20
"""Number of generations that are looked back on, to see whether a search has converged."""


class Convergence:
    """Decides by losses and steps whether a search has converged, so that it may begin elsewhere.

    It has if the gain of the last `GENERATIONS` generations is small while all steps are short.
    Only gains count, since no loss is the best one for sure. Scores of few documents have few
    distinct values, so a small gain alone does not mean that the search has converged; but if all
    losses of these generations are equal, there is nothing that could be learned.
    """

    def __init__(self) -> None:
        self._first: float | None = None
        self._best: list[float] = []  # the best loss up to each generation
        self._ranges: list[tuple[float, float]] = []

    def after(self, losses: Sequence[float], longest_step: float) -> bool:
        """Note a generation; return whether the search has converged with it.

        Args:
            longest_step: longest standard deviation, as a share of this search's initial one.
        """
        if self._first is None:
            self._first = float(np.median(losses))
        best = min(losses)
        self._best.append(min(best, self._best[-1]) if self._best else best)
        self._ranges.append((best, max(losses)))
        if len(self._best) <= GENERATIONS:
            return False
        low, high = zip(*self._ranges[-GENERATIONS:], strict=True)
        now = self._best[-1]
        gain, most = self._best[-1 - GENERATIONS] - now, SMALL * (self._first - now)
        return min(low) == max(high) or (longest_step < SHORT and gain <= most)


@dataclass(frozen=True)
class _Sample:
    """A sample of pycma, `z` in its coordinates, drawn around `mean`."""

    search: int  # which a restart raises
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

    With restarts, a search that has converged (`Convergence`) begins again at a random point, with
    twice the population (IPOP, Auger & Hansen 2005). The property `population` stays that of the
    first search, so that the generations in which a search loop tells outcomes keep their size.

    Args:
        diagonal: whether to learn variances only (Ros & Hansen 2008), which takes fewer trials if
            there are many genes.
        restarts: whether to begin again after the search has converged; else it goes on.
    """

    def __init__(
        self,
        cube: Cube,
        seed: int,
        population: int | None,
        diagonal: bool,
        restarts: bool = False,
    ) -> None:
        super().__init__(cube, population or default_population(len(cube.genes)))
        # pycma needs two dimensions: a single gene gets a second one that has no effect.
        self._idle = max(0, 2 - len(cube.start))
        idle = np.ones(self._idle)
        self._low = np.append((cube.low - cube.start) / cube.step, -idle)
        self._high = np.append((cube.high - cube.start) / cube.step, idle)
        self._two_point = len(cube.start) >= TWO_POINT_GENES
        self._diagonal, self._seed = diagonal, seed % 2**32
        self._random = np.random.RandomState(self._seed)
        self._restarts = 0
        self._mean: Vector = np.zeros(len(cube.start))
        self._convergence = Convergence() if restarts else None
        self._samples: deque[_Sample] = deque()
        self._sampled = False

    @cached_property
    def _es(self) -> Any:
        """pycma's strategy. It is made at the first use, since importing pycma takes a second."""
        from evomerge.optimize.pycma import evolution_strategy

        return evolution_strategy(
            low=self._low,
            high=self._high,
            population=self.size,
            diagonal=self._diagonal,
            two_point=self._two_point,
            random=self._random,
            mean=np.append(self._mean, np.zeros(self._idle)),
        )

    @property
    def size(self) -> int:
        """Number of samples of a generation of the current search."""
        return self.population << self._restarts

    def propose(self) -> tuple[object, Vector]:
        """Return a sample, and its point."""
        if not self._samples:
            with _signals_after():
                self._sample()
        sample = self._samples.popleft()
        return sample, self.cube.start + self.cube.step * sample.z[: len(self.cube.start)]

    def collect(self, told: Told[_Sample]) -> None:
        """Add the loss of a sample; those of searches from before a restart are ignored."""
        if told.sample is None or told.sample.search == self._restarts:
            super().collect(told)

    def _sample(self) -> None:
        """Sample a generation.

        With two-point adaptation, later samples before the next update are single points, because
        pycma gives mirrored points for one generation only.
        """
        es, single = self._es, self._sampled and self._two_point
        mirrored = 2 if self._two_point and not single else 0
        mean, generation = self._current_mean(), es.countiter
        self._samples.extend(
            _Sample(self._restarts, z, mean, generation, number if number < mirrored else None)
            for number, z in enumerate(es.ask(1) if single else es.ask())
        )
        self._sampled = True

    def update(self, told: list[Told[_Sample]]) -> None:
        """Learn a generation; one of equal losses says nothing, and would move it at random."""
        losses = [item.loss for item in told]
        with _signals_after():
            if min(losses) < max(losses):
                self._tell(told)
            if self._convergence is not None:
                longest = float(max(self._es.stds[: len(self.cube.start)]))
                if self._convergence.after(losses, longest):
                    self._restart()

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

    def _restart(self) -> None:
        """Begin again at a random point."""
        self._restarts += 1
        self._random = np.random.RandomState([self._seed, self._restarts])
        uniform = self._random.uniform(size=len(self.cube.start))
        where = np.where(np.isinf(self.cube.high), self.cube.start, uniform)
        self._mean = (where - self.cube.start) / self.cube.step
        self._convergence = Convergence()
        self._samples.clear()
        del self._es


def create_full(genes: Sequence[Gene], setting: Setting) -> CMA:
    """Return CMA-ES that learns the full covariance of the genes."""
    return _create(genes, setting, diagonal=False)


def create_diagonal(genes: Sequence[Gene], setting: Setting) -> CMA:
    """Return CMA-ES that learns variances only."""
    return _create(genes, setting, diagonal=True)


def _create(genes: Sequence[Gene], setting: Setting, *, diagonal: bool) -> CMA:
    cube, restarts = Cube(genes, setting.sigma), setting.options.get("restarts") == "ipop"
    return CMA(cube, setting.seed, setting.population, diagonal, restarts)
