"""How sure a score is: 95 % intervals, and the probability that one model beats another.

scipy.stats is imported inside functions: it takes a second, which `evomerge status` need not wait.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from evomerge.scores import Objective, Scores, fitness

RESAMPLES = 10_000
"""Bootstrap samples."""

_AT_ONCE = 1 << 18
"""Values that a batch of bootstrap samples holds: it bounds memory whatever the documents are."""

_Floats: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; the bounds are nan where it is unknown."""

    value: float
    low: float = math.nan
    high: float = math.nan

    @property
    def has_interval(self) -> bool:
        """Whether the interval is known."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def texts(self, factor: float, form: str = ".1f") -> tuple[str, str]:
        """Return value and interval as text, `("83.0", "[80.9, 84.9]")`.

        What is not a number is `-`; an interval that is unknown is empty.

        Args:
            factor: what the figures are multiplied by; see `factor_of`.
            form: format of a figure.
        """
        if not math.isfinite(self.value):
            return "-", ""
        value, low, high = (f"{factor * item:{form}}" for item in (self.value, self.low, self.high))
        return value, f"[{low}, {high}]" if self.has_interval else ""

    def to_dict(self) -> dict[str, float]:
        """Return plain JSON values."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Comparison:
    """A paired comparison of one model with another.

    Attributes:
        difference: how much better it is, in fitness.
        probability: how probable it is that it is better at all.
        factor: what differences are multiplied by when shown; see `factor_of`.
    """

    difference: Estimate
    probability: float
    factor: float = 100.0

    @property
    def text(self) -> str:
        """`+78.0 points [+75.9, +80.1], better with probability 1.000`."""
        value, bounds = self.difference.texts(self.factor, "+.1f")
        return f"{value} points {bounds}, better with probability {self.probability:.3f}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"difference": self.difference.to_dict(), "probability": self.probability}


def factor_of(values: Iterable[float]) -> float:
    """Return 100 for shares (all within -1 and 1), which are shown in per cent, 1 for others."""
    return 100.0 if all(abs(value) <= 1.0 for value in values if math.isfinite(value)) else 1.0


def interval(values: Sequence[float], aggregate: float) -> Estimate:
    """Return the 95 % interval of a metric over documents.

    Values that are all 0 or 1 get Wilson's score interval (Wilson 1927), which stays sensible at
    0 % and 100 %; others a bootstrap of the mean over documents. The interval is unknown where the
    aggregate is not the mean of the values (a perplexity, an F1 over all documents), where there
    are no values (the average of a group of tasks), and for a single value that is not 0 or 1.
    """
    if not _is_mean(values, aggregate):
        return Estimate(aggregate)
    if set(values) <= {0.0, 1.0}:
        from scipy.stats import binomtest

        right = round(sum(values))
        bounds = binomtest(right, len(values)).proportion_ci(0.95, method="wilson")
        return Estimate(aggregate, float(bounds.low), float(bounds.high))
    return _bootstrapped(aggregate, [np.asarray(values, dtype=np.float64)])[0]


def intervals(objectives: Sequence[Objective], scores: Scores) -> dict[str, Estimate]:
    """Return every objective's score with its interval, by its key."""
    return {
        item.key: interval(scores.values.get(item.key, ()), scores.aggregates[item.key])
        for item in objectives
    }


def fitness_interval(objectives: Sequence[Objective], scores: Scores) -> Estimate:
    """Return the weighted fitness of a model with its interval.

    Documents are resampled within each task. The interval is unknown where one objective's is.
    """
    if len(objectives) == 1:
        (own,) = intervals(objectives, scores).values()
        if objectives[0].higher_is_better:
            return own
        return Estimate(-own.value, -own.high, -own.low)
    value, shares = fitness(objectives, scores), _shares(objectives, scores)
    return Estimate(value) if shares is None else _bootstrapped(value, shares)[0]


def compare(objectives: Sequence[Objective], ours: Scores, theirs: Scores) -> Comparison | None:
    """Compare two models on the same documents by a paired bootstrap (Koehn 2004).

    Returns:
        The difference of the weighted fitness, and the share of resamples in which it is
        positive (half of the draws count); None where the documents differ, a metric is not the
        mean of its documents' values, or a task has a single document.
    """
    own, other = _shares(objectives, ours), _shares(objectives, theirs)
    if ours.documents != theirs.documents or own is None or other is None:
        return None
    both = fitness(objectives, ours), fitness(objectives, theirs)
    pairs = [left - right for left, right in zip(own, other, strict=True)]
    difference, draws = _bootstrapped(both[0] - both[1], pairs)
    if not len(draws):
        return None
    level = np.abs(draws) <= 1e-12  # equal but for the rounding of weights
    probability = float(np.mean((draws > 0) & ~level) + np.mean(level) / 2)
    return Comparison(difference, probability, factor_of(both))


def _is_mean(values: Sequence[float], aggregate: float) -> bool:
    return len(values) > 0 and math.isclose(
        float(np.mean(values)), aggregate, rel_tol=1e-9, abs_tol=1e-12
    )


def _shares(objectives: Sequence[Objective], scores: Scores) -> list[_Floats] | None:
    """Return what each document adds to the fitness, an array a task.

    Several metrics of one task are added up document by document: they are resampled together. The
    fitness is the sum of the arrays' means. None where a metric is not the mean of its values.
    """
    total = sum(item.weight for item in objectives)
    by_task: dict[str, _Floats] = {}
    for item in objectives:
        values = scores.values.get(item.key, ())
        if not _is_mean(values, scores.aggregates[item.key]):
            return None
        weight = item.weight / total * (1.0 if item.higher_is_better else -1.0)
        share = weight * np.asarray(values, dtype=np.float64)
        by_task[item.task] = by_task[item.task] + share if item.task in by_task else share
    return list(by_task.values())


def _bootstrapped(value: float, samples: Sequence[_Floats]) -> tuple[Estimate, _Floats]:
    """Return a value with the percentile interval of a sum of means, and the resampled sums.

    The same samples give the same draws, in any process.

    Args:
        value: the sum of the samples' means.
        samples: resampled independently of each other. One of a single value says nothing about
            the spread: then the interval is unknown and there are no draws.
    """
    from scipy.stats import bootstrap

    if any(len(sample) < 2 for sample in samples):
        return Estimate(value), np.empty(0)

    def total(*drawn: _Floats, axis: int) -> _Floats:
        means = [np.mean(sample, axis=axis) for sample in drawn]
        return np.asarray(np.sum(means, axis=0), dtype=np.float64)

    result = bootstrap(
        samples,
        total,
        n_resamples=RESAMPLES,
        batch=max(1, _AT_ONCE // sum(map(len, samples))),
        vectorized=True,
        confidence_level=0.95,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    bounds = result.confidence_interval
    return Estimate(value, float(bounds.low), float(bounds.high)), result.bootstrap_distribution
