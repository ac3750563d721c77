"""CMA-ES (Hansen & Ostermeier 2001): of real genes by the package pycma, of others by cmaes.

Both packages work in units of the initial steps, and learn a generation at a time.
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
from typing import Any

import numpy as np

from evomerge.compat.cmaes import Normal, normal_of, normal_with_categories_of
from evomerge.compat.pycma import extend_path
from evomerge.optimize.base import Cube, Generations, Trial, Vector
from evomerge.optimize.protocol import Setting
from evomerge.space.protocol import Gene

TWO_POINT_GENES = 300
"""With this many genes or more, the step size is adapted by two mirrored points in each generation,
as in pycma. The usual adaptation (CSA) would need more than a thousand trials to shorten steps."""

SMALLEST_STEP = 1e-7
"""Lower limit of the standard deviations, in units of the initial step. It is far below the
resolution of a recipe, and far enough above rounding errors to keep the covariance matrix valid."""


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
        super().__init__(cube, setting.population)
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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pycma warns of long steps and shortens them itself
            self._es.tell(list(map(self._coordinates, trials)), [trial.loss for trial in trials])
        self._sampled = False
        if self._two_point:
            self._samples.clear()  # so that the next samples begin with a mirrored pair again

    def _current_mean(self) -> Vector:
        return np.array(self._es.gp.pheno(self._es.mean))

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


class _Cmaes(Generations[Any]):
    """An optimizer of cmaes, which works in the coordinates z = point of the cube / initial step.

    With plain CMA-ES, a discrete gene can become stuck at one value, since a small step does not
    change it. The margin is a lower limit on the probability of the other values.
    """

    _inner: Any

    def update(self, trials: list[Trial[Any]]) -> None:
        """Learn a generation."""
        samples = [self._sample(x.point) if x.sample is None else x.sample for x in trials]
        with warnings.catch_warnings():
            # While half of the losses of each generation are equal, it takes the median of nothing.
            warnings.simplefilter("ignore")
            self._inner.tell(list(zip(samples, (x.loss for x in trials), strict=True)))

    @abstractmethod
    def _sample(self, point: Vector) -> Any:
        """Return a point that cmaes did not propose as one of its samples."""


class MarginCMA(_Cmaes):
    """CMA-ES with margin (Hamano et al. 2022, arXiv 2205.13482), for genomes without choices."""

    def __init__(self, cube: Cube, setting: Setting) -> None:
        from cmaes import CMAwM

        super().__init__(cube, setting.population)
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

    def _sample(self, point: Vector) -> Vector:
        return _shortened(np.append(point / self.cube.step, self._idle), normal_of(self._inner))


class CategoryCMA(_Cmaes):
    """CatCMA with margin (Hamano et al. 2025, arXiv 2504.07884), for genomes with choices.

    It learns a normal distribution of numbers, and a probability of each value of a choice, which
    is a one-hot vector to cmaes.
    """

    def __init__(self, cube: Cube, setting: Setting) -> None:
        from cmaes import CatCMAwM

        super().__init__(cube, setting.population)
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
