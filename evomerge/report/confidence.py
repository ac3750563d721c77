"""The uncertainty of scores: 95 % intervals, and how sure it is that one model beats another."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev
from typing import Any

import numpy as np

from evomerge.report import means
from evomerge.report.means import Sample
from evomerge.scores import MODEL, NLL, TOKENS, TOLD, Objective, Scores, fitness


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval: nan if unknown, the value itself if that is exact."""

    value: float
    low: float = math.nan
    high: float = math.nan
    is_exact: bool = False

    @property
    def has_interval(self) -> bool:
        """Whether the interval is known."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def texts(self, factor: float, sign: str = "") -> tuple[str, str]:
        """Return the value and the interval as text, such as `("83.0", "[80.9, 84.9]")`.

        All are times a factor; with `+` as sign, numbers above 0 have one. `-` stands for a value
        that is not finite; an unknown interval, or that of an exact value, is empty.
        """
        if not math.isfinite(self.value):
            return "-", ""
        if self.is_exact:
            return f"{factor * self.value:{sign},.10g}", ""
        numbers = [factor * item for item in (self.value, self.low, self.high)]
        largest = max(abs(item) for item in numbers if math.isfinite(item))
        digits = max(1, 2 - math.floor(math.log10(largest))) if factor == 1.0 and largest else 1
        value, low, high = (f"{item:{sign}z.{digits}f}" for item in numbers)
        return value, f"[{low}, {high}]" if self.has_interval else ""

    def to_dict(self) -> dict[str, float]:
        """Return plain JSON values."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Comparison:
    """A paired comparison of one model with another.

    Attributes:
        difference: fitness of the first model minus that of the other.
        probability: how sure it is that this is above 0: 1 - p of the one-sided test, above 0.975
            where the 95 % interval is above 0.
        factor: see `factor_of`.
        samples: the differences on the documents, one sample for each task.
        is_turned: whether it is of one metric of which less is better: people see its own sign.
    """

    difference: Interval
    probability: float
    factor: float = 100.0
    samples: Sequence[Sample] = field(default=(), repr=False, compare=False)
    is_turned: bool = False

    @property
    def shown(self) -> Interval:
        """The difference in the sign of the scores beside it: below 0 for fewer nats."""
        one = self.difference
        turned = replace(one, value=-one.value, low=-one.high, high=-one.low)
        return turned if self.is_turned else one

    @property
    def amount(self) -> str:
        """The difference as text: `+7.8 points [+5.9, +9.7]`."""
        value, bounds = self.shown.texts(self.factor, "+")
        return f"{value}{' points' if self.factor == 100.0 else ''} {bounds}".rstrip()

    @property
    def text(self) -> str:
        """The comparison as text: `+7.8 points [+5.9, +9.7], better with probability > 0.999`."""
        return f"{self.amount}, better with probability {probability_text(self.probability)}"

    @property
    def sign(self) -> int:
        """1 or -1 if the first model is better or worse beyond doubt (95 % interval), else 0."""
        return int(self.difference.low > 0) - int(self.difference.high < 0)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"difference": self.shown.to_dict(), "probability": self.probability}


def probability_text(probability: float) -> str:
    """Return a probability with three decimals; more say nothing of so many documents."""
    if probability > 0.9995:
        return "> 0.999"
    return "< 0.001" if probability < 0.0005 else f"{probability:.3f}"


def factor_of(values: Iterable[float], key: str) -> float:
    """Return 100 if all finite values of a metric are shares, which are shown in per cent, else 1.

    Args:
        values: the metric in its own sign; what is below 0 is no share (a log-probability).
        key: `task/metric`; nats, tokens, sizes of the model and told scores are no shares,
            however few they are.
    """
    task, _, metric = key.rpartition("/")
    if task in (MODEL, TOLD) or metric in (NLL, TOKENS):
        return 1.0
    return 100.0 if all(0.0 <= value <= 1.0 for value in values if math.isfinite(value)) else 1.0


def factor_of_fitness(objectives: Sequence[Objective], every: Iterable[Scores]) -> float:
    """Return 100 if all objectives are shares in all scores, so that their mean is one; else 1."""
    known = list(every)
    return min(
        factor_of((item.aggregates[objective.key] for item in known), objective.key)
        for objective in objectives
    )


def interval(values: Sequence[float], aggregate: float, largest: float | None = None) -> Interval:
    """Return a metric with its 95 % interval over documents.

    If all values are 0 or 1, it is Wilson's score interval (Wilson 1927); for other values see
    `evomerge.report.means`. Values that all lie between 0 and 1 are taken for shares, which cannot
    lie elsewhere. The interval is unknown if the aggregate is not the mean of the values (a
    perplexity), if there are no values, or if there is one value only, which is no share.

    Args:
        values: the metric of each document.
        aggregate: the metric over all of them, as lm-eval aggregates it.
        largest: largest possible value of a metric from 0 on; None: a share, or unknown.
    """
    if not _is_mean(values, aggregate):
        return Interval(aggregate)
    bounds = _bounds(values, largest)
    return _estimate(aggregate, [Sample.of(values, bounds, is_share=largest is None)])


def intervals(objectives: Sequence[Objective], scores: Scores) -> dict[str, Interval]:
    """Return the score of every objective with its interval: `task/metric` -> estimate."""
    found = {}
    for item in objectives:
        value = scores.aggregates[item.key]
        known = Interval(value, value, value, is_exact=True) if item.is_exact else None
        largest = item.largest(scores)
        found[item.key] = known or interval(scores.values.get(item.key, ()), value, largest)
    return found


def fitness_interval(objectives: Sequence[Objective], scores: Scores) -> Interval:
    """Return the weighted fitness with its interval; unknown if a metric is no mean of values."""
    value, samples = fitness(objectives, scores), _samples(objectives, scores)
    return Interval(value) if samples is None else _estimate(value, samples)


def mean_over_runs(
    estimates: Sequence[Interval], least: float = -math.inf, most: float = math.inf
) -> Interval:
    """Return the mean over all seeds, estimated from runs of some, with its 95 % interval.

    Either half of it is sqrt(s^2 + d^2): s is that of Student's t over the runs, d the mean half of
    their own intervals over documents (MOVER: Zou and Donner 2008). Runs often share their test
    documents, so d does not shrink with their number. One run has its own interval; the interval is
    unknown if that of a run is.

    Args:
        estimates: the score of each run, or its difference to another one, at least one.
        least, most: smallest and largest possible value.
    """
    from scipy.stats import t

    count, values = len(estimates), [item.value for item in estimates]
    mean = fmean(values)
    if count == 1 or not all(item.has_interval for item in estimates):
        return estimates[0] if count == 1 else Interval(mean)
    spread = float(t.ppf(0.975, count - 1)) * stdev(values) / math.sqrt(count)
    below = math.hypot(spread, mean - fmean(item.low for item in estimates))
    above = math.hypot(spread, fmean(item.high for item in estimates) - mean)
    return Interval(mean, max(least, mean - below), min(most, mean + above))


def compare(objectives: Sequence[Objective], ours: Scores, theirs: Scores) -> Comparison | None:
    """Compare the weighted fitness of two models by their differences on the same documents.

    None if the documents differ, a metric is not the mean of its values, or a task whose metric is
    no share has one document only.
    """
    apart = fitness(objectives, ours) - fitness(objectives, theirs)
    is_turned = len(objectives) == 1 and not objectives[0].higher_is_better
    if all(item.is_exact for item in objectives):
        probability = 0.5 + 0.5 * (apart > 0) - 0.5 * (apart < 0)
        exact = Interval(apart, apart, apart, is_exact=True)
        return Comparison(exact, probability, 1.0, (), is_turned)
    samples = _samples(objectives, ours, theirs) if ours.documents == theirs.documents else None
    difference = Interval(apart) if samples is None else _estimate(apart, samples)
    if samples is None or not difference.has_interval:
        return None
    factor = factor_of_fitness(objectives, (ours, theirs))
    return Comparison(difference, float(means.confidence(samples)), factor, samples, is_turned)


def _is_mean(values: Sequence[float], aggregate: float) -> bool:
    return (
        len(values) > 0
        and math.isfinite(aggregate)
        and math.isclose(float(np.mean(values)), aggregate, rel_tol=1e-9, abs_tol=1e-12)
    )


def _bounds(values: Sequence[float], largest: float | None) -> tuple[float, float]:
    """Return the bounds of a metric: known ones, 0 and 1 of a share, or else infinite ones."""
    if largest is not None:
        return 0.0, max(largest, *values)
    return (0.0, 1.0) if min(values) >= 0 and max(values) <= 1 else (-math.inf, math.inf)


def _estimate(value: float, samples: Sequence[Sample]) -> Interval:
    """Return a sum of means with its interval; unknown if a spread is unknown."""
    if any(item.size < 2 and not item.is_share for item in samples):
        return Interval(value)
    low, high = means.interval(samples)
    return Interval(value, float(low), float(high))


def _samples(
    objectives: Sequence[Objective], ours: Scores, theirs: Scores | None = None
) -> list[Sample] | None:
    """Return what each task adds to the fitness, or to the difference of two, by document.

    Metrics of one task are added up by document; tasks are independent. None if one is no mean.
    """
    total = sum(item.weight for item in objectives)
    values: dict[str, Any] = {}
    bounds: dict[str, Any] = {}
    reach: dict[str, float] = {}
    no_shares: set[str] = set()
    for item in objectives:
        for scores, sign in ((ours, 1.0), (theirs, -1.0)):
            if scores is None:
                continue
            value = scores.aggregates[item.key]
            # What has no error is the same on all documents, and can be nothing else.
            own = (value, value) if item.is_exact else scores.values.get(item.key, ())
            if not _is_mean(own, value):
                return None
            weight = sign * item.weight / total * (1.0 if item.higher_is_better else -1.0)
            largest = item.largest(scores)
            ends = np.sort(weight * np.asarray(own if item.is_exact else _bounds(own, largest)))
            if largest is not None:
                no_shares.add(item.task)
            values[item.task] = values.get(item.task, 0.0) + weight * np.asarray(own)
            bounds[item.task] = bounds.get(item.task, 0.0) + ends
        if theirs is not None and not item.is_exact:
            # Two models may differ on a document by as much as documents do.
            both = (*ours.values[item.key], *theirs.values[item.key])
            own_reach = item.weight / total * (max(both) - min(both))
            reach[item.task] = reach.get(item.task, 0.0) + own_reach
    for task, found in values.items():
        # Sums that are 0 up to rounding.
        values[task] = np.where(np.abs(found) <= 1e-12, 0.0, found)
    return [
        Sample.of(found, bounds[task], is_share=task not in no_shares, reach=reach.get(task))
        for task, found in values.items()
    ]
