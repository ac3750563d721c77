"""How sure a score is: 95 % intervals, and the probability that one model beats another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from evomerge.scores import Objective, Scores, fitness

Z = 1.959963984540054
RESAMPLES = 10_000

_Floats: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        """Return plain JSON values."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Comparison:
    """A paired comparison: how much better, and how probable it is that it is better at all."""

    difference: Estimate
    probability: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"difference": self.difference.to_dict(), "probability": self.probability}


def interval(values: Sequence[float], aggregate: float) -> Estimate:
    """Return the 95 % interval of a metric over documents.

    Values that are all 0 or 1 get Wilson's score interval (Wilson 1927), which stays sensible at
    0 % and 100 %; other means a bootstrap over documents. Where the aggregate is not the mean of
    the values (a perplexity, an F1 over all documents), the interval is unknown and is nan.
    """
    n = len(values)
    mean = sum(values) / n if n else math.nan
    if not n or not math.isclose(mean, aggregate, rel_tol=1e-9, abs_tol=1e-12):
        return Estimate(aggregate, math.nan, math.nan)
    if set(values) <= {0.0, 1.0}:
        middle = (mean + Z * Z / (2 * n)) / (1 + Z * Z / n)
        half = Z / (1 + Z * Z / n) * math.sqrt(mean * (1 - mean) / n + Z * Z / (4 * n * n))
        return Estimate(aggregate, max(0.0, middle - half), min(1.0, middle + half))
    low, high = np.quantile(_resampled_means(np.asarray(values)), (0.025, 0.975))
    return Estimate(aggregate, float(low), float(high))


def intervals(objectives: Sequence[Objective], scores: Scores) -> dict[str, Estimate]:
    """Return every objective's score with its interval."""
    return {
        item.key: interval(scores.values.get(item.key, ()), scores.aggregates[item.key])
        for item in objectives
    }


def fitness_interval(objectives: Sequence[Objective], scores: Scores) -> Estimate:
    """Return the weighted fitness of a model with its interval (documents resampled by task)."""
    if len(objectives) == 1 and objectives[0].higher_is_better:
        key = objectives[0].key
        return interval(scores.values[key], scores.aggregates[key])
    value = fitness(objectives, scores)
    if not _are_means(objectives, scores):
        return Estimate(value, math.nan, math.nan)
    low, high = np.quantile(
        _resampled_fitness(objectives, _signed(objectives, scores)), (0.025, 0.975)
    )
    return Estimate(value, float(low), float(high))


def compare(objectives: Sequence[Objective], ours: Scores, theirs: Scores) -> Comparison | None:
    """Compare two models on the same documents by a paired bootstrap (Koehn 2004).

    Returns:
        The difference of the weighted fitness, and the share of resamples in which it is
        positive (half of the draws count); None where the documents differ or the metrics are
        not means.
    """
    if ours.documents != theirs.documents:
        return None
    if not (_are_means(objectives, ours) and _are_means(objectives, theirs)):
        return None
    pairs = zip(_signed(objectives, ours), _signed(objectives, theirs), strict=True)
    draws = _resampled_fitness(objectives, [own - other for own, other in pairs])
    low, high = np.quantile(draws, (0.025, 0.975))
    difference = fitness(objectives, ours) - fitness(objectives, theirs)
    probability = float(np.mean(draws > 0) + np.mean(draws == 0) / 2)
    return Comparison(Estimate(difference, float(low), float(high)), probability)


def _are_means(objectives: Sequence[Objective], scores: Scores) -> bool:
    return all(
        len(scores.values[item.key]) > 0
        and math.isclose(
            float(np.mean(scores.values[item.key])),
            scores.aggregates[item.key],
            rel_tol=1e-9,
            abs_tol=1e-12,
        )
        for item in objectives
    )


def _signed(objectives: Sequence[Objective], scores: Scores) -> list[_Floats]:
    return [
        np.asarray(scores.values[item.key]) * (1.0 if item.higher_is_better else -1.0)
        for item in objectives
    ]


def _resampled_means(values: _Floats, stream: int = 0) -> _Floats:
    """Return the means of `RESAMPLES` bootstrap samples; the same values give the same draws."""
    distinct, counts = np.unique(values, return_counts=True)
    generator = np.random.Generator(np.random.Philox(key=stream))
    drawn = generator.multinomial(len(values), counts / len(values), size=RESAMPLES)
    return np.asarray(drawn @ distinct / len(values), dtype=np.float64)


def _resampled_fitness(objectives: Sequence[Objective], values: list[_Floats]) -> _Floats:
    total = sum(item.weight for item in objectives)
    draws = np.zeros(RESAMPLES)
    for stream, (objective, documents) in enumerate(zip(objectives, values, strict=True)):
        draws += objective.weight / total * _resampled_means(documents, stream)
    return draws
