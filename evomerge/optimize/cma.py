"""CMA-ES with the settings of evolutionary model merge (arXiv 2403.13187), by the package pycma."""

from __future__ import annotations

import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, cast

import numpy as np

from evomerge.errors import ConfigError, did_you_mean
from evomerge.optimize.base import BaseOptimizer, default_population
from evomerge.optimize.cube import Cube, Vector
from evomerge.optimize.restarts import Begin, Bipop, Convergence, Ipop, Restarts
from evomerge.optimize.setting import Setting
from evomerge.space.protocol import Gene

TWO_POINT_GENES = 300
"""With this many genes or more, the step size is adapted by two mirrored points in each generation,
as in pycma. The usual adaptation (CSA) would need more than a thousand trials to shorten steps."""

RESTARTS: dict[str, Callable[[int], Restarts] | None] = {
    "none": None,
    "ipop": Ipop,
    "bipop": Bipop,
}
"""Values of the option `restarts`; they take the population of the first search."""


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


class CMA(BaseOptimizer):
    """CMA-ES (Hansen & Ostermeier 2001).

    pycma works in the coordinates z = (point of the cube - start) / step, in which the initial mean
    is 0 and the initial standard deviation 1. Bounds are handled by pycma (a piecewise quadratic
    transformation), which finds optima on a bound best. pycma's stop criteria are not used: scores
    have few distinct values, so a plateau does not mean that the search has converged.

    With restarts, a search that has converged (`Convergence`) begins again at a random point, with
    another population. The property `population` stays that of the first search, so that the
    generations in which a search loop tells outcomes keep their size.

    Args:
        cube: the coordinate system of the genes.
        seed: seed of all random numbers, 0 or more.
        population: trials in a generation, 4 or more, or None for 4 + floor(3 ln n).
        diagonal: whether to learn variances only (Ros & Hansen 2008), which takes fewer trials if
            there are many genes.
        restarts: gives what says how to begin again after the search has converged; None: it goes
            on.
    """

    def __init__(
        self,
        cube: Cube,
        seed: int,
        population: int | None,
        diagonal: bool,
        restarts: Callable[[int], Restarts] | None = None,
    ) -> None:
        super().__init__(cube, population or default_population(len(cube.genes)))
        # pycma needs two dimensions: a single gene gets a second one that has no effect.
        self._idle = max(0, 2 - len(cube.start))
        self._two_point = len(cube.start) >= TWO_POINT_GENES
        self._diagonal, self._seed = diagonal, seed
        self._begin = Begin(self.population)
        self._restarts = self._trials = 0
        self._mean: Vector = np.zeros(len(cube.start))
        self._scheme = restarts and restarts(self.population)
        self._convergence = Convergence()
        self._samples: deque[Vector] = deque()
        self._mirrored: list[Vector] = []
        self._told: list[tuple[Vector, float]] = []
        self._sampled = False

    @cached_property
    def _es(self) -> Any:
        """pycma's strategy. It is made at the first use, since importing pycma takes a second."""
        from evomerge.optimize.pycma import evolution_strategy

        cube, idle = self.cube, [1.0] * self._idle
        return evolution_strategy(
            low=[*((cube.low - cube.start) / cube.step), *(-value for value in idle)],
            high=[*((cube.high - cube.start) / cube.step), *idle],
            population=self._begin.population,
            diagonal=self._diagonal,
            two_point=self._two_point,
            seed=self._seed + self._restarts,
            mean=[*self._mean, *(0.0 for _ in idle)],
            step=self._begin.step,
        )

    def propose(self) -> tuple[object, Vector]:
        """Return a sample in pycma's coordinates, and its point."""
        if not self._samples:
            with _signals_after():
                self._sample()
        z = self._samples.popleft()
        return (self._restarts, z), self.cube.start + self.cube.step * z[: len(self.cube.start)]

    def learn(self, handle: object, point: Vector, loss: float) -> None:
        """Collect a loss; after a population of losses, the distribution is updated.

        The losses may belong to points of different generations; those of points from before a
        restart are ignored. A point that pycma did not propose is moved by pycma towards the mean,
        to the length of a likely step (Hansen 2011).
        """
        if handle is not None:
            search, z = cast(tuple[int, Vector], handle)
            if search != self._restarts:
                return
        else:
            z = np.append((point - self.cube.start) / self.cube.step, [0.0] * self._idle)
        self._told.append((z, loss))
        if len(self._told) == self._begin.population:
            with _signals_after():
                self._update()

    def _sample(self) -> None:
        """Sample a generation.

        With two-point adaptation, later samples before the next update are single points, because
        pycma gives mirrored points for one generation only.
        """
        if self._sampled and self._two_point:
            self._samples.extend(self._es.ask(1))
            return
        self._samples.extend(self._es.ask())
        self._mirrored = [self._samples[0], self._samples[1]] if self._two_point else []
        self._sampled = True

    def _update(self) -> None:
        if not self._sampled:
            # pycma refuses two updates without a sample between them. This would happen if several
            # generations were asked before the first was told, or if many points were enqueued.
            self._es.ask(2 if self._two_point else 1)
        points, losses = zip(*sorted(self._told, key=self._mirrored_first), strict=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pycma warns of long steps and shortens them itself
            self._es.tell(points, losses)
        self._told, self._sampled = [], False
        if self._scheme is not None:
            self._trials += len(losses)
            longest = max(self._es.stds[: len(self.cube.start)]) / self._begin.step
            most = self._begin.trials
            is_long = most is not None and self._trials >= most
            if self._convergence.after(losses, float(longest)) or is_long:
                self._restart(self._scheme)
        if self._two_point:
            # Otherwise the two points of a mirrored pair could be told in different generations,
            # from here on always.
            self._samples.clear()

    def _restart(self, scheme: Restarts) -> None:
        """Begin again at a random point."""
        self._restarts += 1
        random = np.random.RandomState([self._seed % 2**32, self._restarts])
        uniform = random.uniform(size=len(self.cube.start))
        where = np.where(np.isinf(self.cube.high), self.cube.start, uniform)
        self._mean = (where - self.cube.start) / self.cube.step
        self._begin = scheme.after(self._trials, random)
        self._convergence, self._trials = Convergence(), 0
        self._samples.clear()
        del self._es

    def _mirrored_first(self, told: tuple[Vector, float]) -> int:
        """Return a sorting key; pycma assumes that the first two points are the mirrored ones."""
        places = [i for i, point in enumerate(self._mirrored) if point is told[0]]
        return places[0] if places else len(self._mirrored)


def create_full(genes: Sequence[Gene], setting: Setting) -> CMA:
    """Return CMA-ES that learns the full covariance of the genes."""
    return _create(genes, setting, diagonal=False)


def create_diagonal(genes: Sequence[Gene], setting: Setting) -> CMA:
    """Return CMA-ES that learns variances only."""
    return _create(genes, setting, diagonal=True)


def _create(genes: Sequence[Gene], setting: Setting, *, diagonal: bool) -> CMA:
    """Return CMA-ES.

    Raises:
        ConfigError: the option `restarts` has another value than those of `RESTARTS`.
    """
    restarts = setting.options.get("restarts", "none")
    if not isinstance(restarts, str) or restarts not in RESTARTS:
        raise ConfigError(
            f"optimizer.options.restarts is {restarts!r}; allowed are {', '.join(RESTARTS)}."
            f"{did_you_mean(str(restarts), RESTARTS)}"
        )
    cube = Cube(genes, setting.sigma)
    return CMA(cube, setting.seed, setting.population, diagonal, RESTARTS[restarts])
