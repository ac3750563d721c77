"""The uncertainty of scores: 95 % intervals, and the probability that one model beats another.

scipy.stats is imported inside functions, because the import takes about a second.
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
"""Number of bootstrap samples."""

_BATCH_VALUES = 1 << 18
"""Number of values in one batch of bootstrap samples, which limits the memory they take."""

_Floats: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; both bounds are nan if the interval is unknown.

    Attributes:
        is_exact: whether the value does not depend on a choice of documents; the bounds equal it.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    is_exact: bool = False

    @property
    def has_interval(self) -> bool:
        """Whether the interval is known."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def texts(self, factor: float, form: str = ".1f") -> tuple[str, str]:
        """Return the value and the interval as text, such as `("83.0", "[80.9, 84.9]")`.

        A value that is not finite gives `-`; an unknown interval, or that of an exact value, gives
        an empty text.

        Args:
            factor: factor on the value and the bounds; see `factor_of`.
            form: format of each number.
        """
        if not math.isfinite(self.value):
            return "-", ""
        if self.is_exact:
            sign = "+" if form.startswith("+") else ""
            return f"{factor * self.value:{sign},.10g}", ""
        value, low, high = (f"{factor * item:{form}}" for item in (self.value, self.low, self.high))
        return value, f"[{low}, {high}]" if self.has_interval else ""

    def to_dict(self) -> dict[str, float]:
        """Return plain JSON values."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Comparison:
    """A paired comparison of one model with another.

    Attributes:
        difference: fitness of the first model minus that of the other.
        probability: probability that the first model has the higher fitness.
        factor: factor by which the difference is multiplied when it is shown; see `factor_of`.
    """

    difference: Estimate
    probability: float
    factor: float = 100.0

    @property
    def text(self) -> str:
        """The comparison as text: `+7.8 points [+5.9, +9.7], better with probability > 0.999`.

        Only shares, which are shown in per cent, differ by points.
        """
        value, bounds = self.difference.texts(self.factor, "+.1f")
        sure = probability_text(self.probability)
        unit = " points" if self.factor == 100.0 else ""
        return f"{value}{unit} {bounds}, better with probability {sure}"

    @property
    def sign(self) -> int:
        """1 if the first model is better beyond doubt, -1 if it is worse, else 0.

        Beyond doubt means that the 95 % interval of the difference does not contain 0.
        """
        return int(self.difference.low > 0) - int(self.difference.high < 0)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"difference": self.difference.to_dict(), "probability": self.probability}


def probability_text(probability: float) -> str:
    """Return a probability with three decimals; resamples cannot tell 0.9999 from 1."""
    if probability > 0.9995:
        return "> 0.999"
    return "< 0.001" if probability < 0.0005 else f"{probability:.3f}"


def factor_of(values: Iterable[float]) -> float:
    """Return the factor by which values are multiplied when they are shown.

    It is 100 if all finite values lie between -1 and 1 (shares, shown in per cent), otherwise 1.
    """
    return 100.0 if all(abs(value) <= 1.0 for value in values if math.isfinite(value)) else 1.0


def interval(values: Sequence[float], aggregate: float) -> Estimate:
    """Return a metric with its 95 % interval over documents.

    If all values are 0 or 1, it is Wilson's score interval (Wilson 1927), which is also valid near
    0 % and 100 %; otherwise it is a bootstrap interval of the mean over documents. The interval is
    unknown if the aggregate is not the mean of the values (a perplexity, an F1 over all documents),
    if there are no values (the average of a group of tasks), or if there is one value only and it
    is neither 0 nor 1.

    Args:
        values: the metric of each document.
        aggregate: the metric over all of them, as lm-eval aggregates it.
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
    """Return the score of every objective with its interval: `task/metric` -> estimate."""
    found = {}
    for item in objectives:
        value = scores.aggregates[item.key]
        known = Estimate(value, value, value, is_exact=True) if item.is_exact else None
        found[item.key] = known or interval(scores.values.get(item.key, ()), value)
    return found


def fitness_interval(objectives: Sequence[Objective], scores: Scores) -> Estimate:
    """Return the weighted fitness of a model with its interval.

    Documents are resampled within each task. The interval is unknown if a metric is not the mean
    of its values.
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
        the difference in weighted fitness, and the share of resamples in which it is positive
        (resamples in which it is 0 count half). None if the documents differ, a metric is not the
        mean of its values, or a task has one document only.
    """
    if all(item.is_exact for item in objectives):
        apart = fitness(objectives, ours) - fitness(objectives, theirs)
        probability = 0.5 + 0.5 * (apart > 0) - 0.5 * (apart < 0)
        return Comparison(Estimate(apart, apart, apart, is_exact=True), probability, 1.0)
    own, other = _shares(objectives, ours), _shares(objectives, theirs)
    if ours.documents != theirs.documents or own is None or other is None:
        return None
    both = fitness(objectives, ours), fitness(objectives, theirs)
    pairs = [left - right for left, right in zip(own, other, strict=True)]
    difference, resampled = _bootstrapped(both[0] - both[1], pairs)
    if not len(resampled):
        return None
    equal = np.abs(resampled) <= 1e-12  # 0 up to rounding
    probability = float(np.mean((resampled > 0) & ~equal) + np.mean(equal) / 2)
    return Comparison(difference, probability, factor_of(both))


def _is_mean(values: Sequence[float], aggregate: float) -> bool:
    return len(values) > 0 and math.isclose(
        float(np.mean(values)), aggregate, rel_tol=1e-9, abs_tol=1e-12
    )


def _shares(objectives: Sequence[Objective], scores: Scores) -> list[_Floats] | None:
    """Return the contribution of each document to the fitness, as one array for each task.

    The fitness is the sum of the means of the arrays. Several metrics of a task are added up
    document by document, since their values on a document are resampled together.

    Returns:
        None if a metric is not the mean of its values.
    """
    total = sum(item.weight for item in objectives)
    by_task: dict[str, _Floats] = {}
    for item in objectives:
        value = scores.aggregates[item.key]
        # What has no error is the same in every resample.
        values = (value, value) if item.is_exact else scores.values.get(item.key, ())
        if not _is_mean(values, value):
            return None
        weight = item.weight / total * (1.0 if item.higher_is_better else -1.0)
        share = weight * np.asarray(values, dtype=np.float64)
        by_task[item.task] = by_task[item.task] + share if item.task in by_task else share
    return list(by_task.values())


def _bootstrapped(value: float, samples: Sequence[_Floats]) -> tuple[Estimate, _Floats]:
    """Return a sum of means with its bootstrap percentile interval, and the resampled sums.

    Equal samples give equal results, in any process.

    Args:
        value: the sum of the samples' means.
        samples: arrays that are resampled independently of each other. If one has a single value,
            its variance is unknown; then the interval is unknown and no resampled sums are
            returned.
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
        batch=max(1, _BATCH_VALUES // sum(map(len, samples))),
        vectorized=True,
        confidence_level=0.95,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    bounds = result.confidence_interval
    return Estimate(value, float(bounds.low), float(bounds.high)), result.bootstrap_distribution
