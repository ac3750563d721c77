"""CMA-ES (Hansen & Ostermeier 2001) of real genes, by the package pycma.

It works in units of the initial steps, and learns a generation at a time.
"""

import math
import signal
import threading
import warnings
from abc import abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

import numpy as np

from evomerge.compat.pycma import extend_path
from evomerge.optimize.base import INJECTED_SHARE, REPLACED, BaseOptimizer, Cube, Vector
from evomerge.optimize.protocol import Setting
from evomerge.space.protocol import Gene, Genome

TWO_POINT_GENES = 300
"""With this many genes or more, the step size is adapted by two mirrored points in each generation,
as in pycma. The usual adaptation (CSA) would need more than a thousand trials to shorten steps."""

SMALLEST_STEP = 1e-7
"""Lower limit of the standard deviations, in units of the initial step. It is far below the
resolution of a recipe, and far enough above rounding errors to keep the covariance matrix valid."""

Sample = TypeVar("Sample")


@dataclass(frozen=True)
class Trial(Generic[Sample]):
    """A point and its loss; `sample` is None if the algorithm did not sample exactly this point."""

    sample: Sample | None
    point: Vector
    loss: float


class Generations(BaseOptimizer, Generic[Sample]):
    """Collects the losses of a generation (None: of 4 + floor(3 ln n), for n genes), and learns it.

    Points that it did not propose do not count: a first one could be of baselines only, which say
    nothing about the distribution. The best of them, up to `INJECTED_SHARE`, take the places of the
    worst samples if they are better (injection, Hansen 2011, arXiv 1110.4181). Points that were
    tried in place of its samples count as samples.
    """

    def __init__(self, cube: Cube, setting: Setting) -> None:
        genes = max(2, len(cube.genes))
        population = setting.population or 4 + int(3 * math.log(genes))
        super().__init__(cube, population, is_fresh=setting.is_fresh)
        self._trials: list[Trial[Sample]] = []
        self._injected: list[Trial[Sample]] = []

    @abstractmethod
    def update(self, trials: list[Trial[Sample]]) -> None:
        """Learn a generation."""

    @property
    @abstractmethod
    def mean(self) -> Vector:
        """The point of the cube around which samples are drawn."""

    def believed(self) -> Genome:
        """Return the genome of the mean."""
        return self.cube.genome(self.mean)

    def learn(self, sample: object, point: Vector, loss: float) -> None:
        """Collect a loss; with the last one of a generation, the distribution is updated.

        A generation of equal losses says nothing, and would move the distribution at random.
        """
        if sample is None:
            # The start is the first mean. As a sample it would be a step of no length, by which
            # steps are shortened.
            if not np.array_equal(point, self.cube.start):
                self._injected.append(Trial(None, point, loss))
            return
        exact = None if sample is REPLACED else sample
        self._trials.append(Trial(exact, point, loss))  # type: ignore[arg-type]
        if len(self._trials) == self.population:
            generation = self._with_injected()
            self._trials, self._injected = [], []
            if len({trial.loss for trial in generation}) > 1:
                self.update(generation)

    def _with_injected(self) -> list[Trial[Sample]]:
        """Return the generation, in which injected points have replaced the worst samples."""
        most = max(1, math.floor(INJECTED_SHARE * self.population))
        every = [*self._trials, *sorted(self._injected, key=lambda trial: trial.loss)[:most]]
        best = sorted(range(len(every)), key=lambda index: every[index].loss)[: self.population]
        return [every[index] for index in sorted(best)]


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
    """CMA-ES of pycma, with the settings of evolutionary model merge (arXiv 2403.13187).

    pycma works in the coordinates z = (point of the cube - start) / step, so the initial mean is 0
    and the initial standard deviation 1. It handles bounds by a piecewise quadratic transformation.
    Its stop criteria are not used: scores have few distinct values, so a plateau does not mean that
    the search has converged.
    """

    diagonal = False

    def __init__(self, genes: Sequence[Gene], setting: Setting) -> None:
        cube = Cube(genes, setting.sigma)
        super().__init__(cube, setting)
        # pycma needs two dimensions: a single gene gets a second one that has no effect.
        self._idle = np.zeros(max(0, 2 - len(cube.start)))
        self._low = np.append((cube.low - cube.start) / cube.step, self._idle - 1)
        self._high = np.append((cube.high - cube.start) / cube.step, self._idle + 1)
        self._two_point = len(cube.start) >= TWO_POINT_GENES
        self._random = np.random.RandomState(setting.seed % 2**32)
        self._samples: deque[_Sample] = deque()
        self._sampled = False

    @cached_property
    def _es(self) -> Any:
        """pycma's strategy, made at the first use: importing pycma takes a second."""
        import cma
        from cma.sigma_adaptation import CMAAdaptSigmaCSA

        options = {
            "bounds": [list(self._low), list(self._high)],
            "popsize": self.population,
            "CMA_diagonal": self.diagonal,
            "AdaptSigma": _two_point_adaptation() if self._two_point else CMAAdaptSigmaCSA,
            "minstd": SMALLEST_STEP,
            # Without these two options, pycma seeds and uses numpy's global generator.
            "randn": self._random.randn,
            "seed": math.nan,
            "verbose": -9,
        }
        return cma.CMAEvolutionStrategy([0.0] * len(self._low), 1.0, options)

    def propose(self) -> tuple[object, Vector]:
        """Return a sample, and its point."""
        if not self._samples:
            self._sample()
        sample = self._samples.popleft()
        return sample, self.cube.start + self.cube.step * sample.z[: len(self.cube.start)]

    @_signals_after()
    def _sample(self) -> None:
        """Sample a generation; with two-point adaptation, further samples are single points."""
        es, single = self._es, self._sampled and self._two_point
        mirrored = 2 if self._two_point and not single else 0
        mean, generation = self._current_mean(), es.countiter
        self._samples.extend(
            _Sample(z, mean, generation, number if number < mirrored else None)
            for number, z in enumerate(es.ask(1) if single else es.ask())
        )
        self._sampled = True

    @_signals_after()
    def update(self, trials: list[Trial[_Sample]]) -> None:
        """Learn a generation."""
        if not self._sampled:
            # pycma refuses two updates without a sample between them. This would happen if several
            # generations were asked before the first was told.
            self._es.ask(2 if self._two_point else 1)
        if self._two_point:
            trials = self._mirrored_first(trials)
        # pycma warns of long steps and shortens them itself.
        with warnings.catch_warnings(action="ignore"):
            self._es.tell(list(map(self._coordinates, trials)), [trial.loss for trial in trials])
        self._sampled = False
        if self._two_point:
            self._samples.clear()  # so that the next samples begin with a mirrored pair again

    @property
    def mean(self) -> Vector:
        """The point around which samples are drawn, inside the bounds."""
        return self.cube.start + self.cube.step * self._current_mean()[: len(self.cube.start)]

    def _current_mean(self) -> Vector:
        es = self._es
        return np.array(es.gp.pheno(es.mean, into_bounds=es.boundary_handler.repair))

    def _coordinates(self, trial: Trial[_Sample]) -> Vector:
        """Return what pycma is told of a sample.

        While many genomes are open, the mean moves on before a sample is told, and old samples
        would pull it back. With hundreds of genes, where the mean moves by a small part of a step,
        a sample is told as its step from the mean of its time. With few genes the mean would go the
        same way several times, and too far.
        """
        if trial.sample is None:
            return np.append((trial.point - self.cube.start) / self.cube.step, self._idle)
        sample, mean = trial.sample, self._current_mean()
        if not self._two_point or np.array_equal(mean, sample.mean):
            return sample.z
        return np.clip(sample.z + (mean - sample.mean), self._low, self._high)

    def _mirrored_first(self, trials: list[Trial[_Sample]]) -> list[Trial[_Sample]]:
        """Return a generation that begins with its latest mirrored pair, as pycma assumes."""
        pairs: dict[int, dict[int, Trial[_Sample]]] = {}
        for item in trials:
            if item.sample is not None and item.sample.mirrored is not None:
                pairs.setdefault(item.sample.generation, {})[item.sample.mirrored] = item
        pairs = {generation: pair for generation, pair in pairs.items() if len(pair) == 2}
        self._es.adapt_sigma.has_pair = bool(pairs)
        first = [pairs[max(pairs)][number] for number in (0, 1)] if pairs else []
        return [*first, *(item for item in trials if not any(item is one for one in first))]


def _two_point_adaptation() -> type:
    """Return pycma's two-point step-size adaptation (Hansen 2008) where it can be used, else CSA.

    While many genomes are open, a generation may lack the two points; the path of the mean is
    always there. pycma's consistency check would draw from numpy's global generator.
    """
    from cma.sigma_adaptation import CMAAdaptSigmaCSA, CMAAdaptSigmaTPA

    class TwoPointAdaptation(CMAAdaptSigmaTPA):  # type: ignore[misc]
        has_pair = True  # whether the generation that is told begins with two mirrored points

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self._by_path = CMAAdaptSigmaCSA()

        def hsig(self, es: Any) -> bool:  # called once for each generation
            self._by_path.initialize(es)
            extend_path(self._by_path, es)
            return bool(super().hsig(es))

        def update2(self, es: Any, function_values: Any, **options: Any) -> float:
            method = super().update2 if self.has_pair else self._by_path.update2
            return float(method(es, function_values=function_values, **options))

        def check_consistency(self, es: object) -> None:
            pass

    return TwoPointAdaptation


class DiagonalCMA(CMA):
    """CMA-ES that learns variances only (Ros & Hansen 2008)."""

    diagonal = True
