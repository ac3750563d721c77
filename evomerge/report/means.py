"""Intervals of means over documents, and of sums of such means over tasks.

- Right or wrong answers: the score interval of Wilson (1927).
- Differences of such answers of two models on the same documents: the interval of Agresti and Min
  (2005), which adds half a document to each of right and right, right and wrong, wrong and right,
  wrong and wrong; with quantiles of Student's t, by which small levels too hold for few documents.
- Other values: Student's t.
- A sum over tasks: MOVER (Zou and Donner 2008). The distance from the sum to a bound is the root of
  the sum of the squares of the distances in the tasks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import ndtri, stdtrit

_SUREST = 1 - 1e-12


class Mean(NamedTuple):
    """A mean over documents; `bounds` returns its interval of a level such as 0.95."""

    value: float
    documents: int
    bounds: Callable[[float], tuple[float, float]]


def exact(value: float) -> Mean:
    """Return a value without an error."""
    return Mean(value, 0, lambda level: (value, value))


def mean_of(
    values: npt.NDArray[np.float64], unit: float, *, is_share: bool, is_difference: bool
) -> Mean | None:
    """Return the mean of values of documents, shape (n,), n > 0; None if its error is not known.

    Args:
        values: of a model, or differences of two on the same documents.
        unit: the value of a right answer; below 0 if fewer are better.
        is_share: whether values of a model are between 0 and `unit`.
        is_difference: whether they are differences.
    """
    count, mean, answers = len(values), float(values.mean()), np.round(values / unit, 9)
    if is_difference and np.isin(answers, (-1, 0, 1)).all():
        ours, theirs = (answers == 1).sum() + 0.5, (answers == -1).sum() + 0.5
        centre = (ours - theirs) / (count + 2)
        error = math.sqrt(ours + theirs - (ours - theirs) * centre) / (count + 2)
        freedom = float(count)
    elif not is_difference and np.isin(answers, (0, 1)).all():
        return Mean(mean, count, lambda level: _wilson(int(answers.sum()), count, unit, level))
    elif count < 2:
        return None
    else:
        # What is the same on all documents may be another on the next one: one with 0 is added.
        is_same = answers.min() == answers.max() != 0
        spread = np.append(answers, 0.0) if is_same else answers
        centre, freedom = mean / unit, float(count - 1)
        error = float(spread.std(ddof=1)) / math.sqrt(len(spread))
    least = (-1.0 if is_difference else 0.0) if is_share else -math.inf
    most = 1.0 if is_share else math.inf

    def bounds(level: float) -> tuple[float, float]:
        half = float(stdtrit(freedom, (1 + level) / 2)) * error
        low, high = sorted((unit * max(least, centre - half), unit * min(most, centre + half)))
        return low, high

    return Mean(mean, count, bounds)


def _wilson(right: int, count: int, unit: float, level: float) -> tuple[float, float]:
    square = float(ndtri((1 + level) / 2)) ** 2
    half = math.sqrt(square * (right * (count - right) / count + square / 4))
    ends = [unit * (right + square / 2 + side * half) / (count + square) for side in (-1, 1)]
    return min(ends), max(ends)


def interval(means: Sequence[Mean], level: float = 0.95) -> tuple[float, float]:
    """Return the interval of the sum of means of different tasks."""
    total = sum(item.value for item in means)
    bounds = [(item.value, *item.bounds(level)) for item in means]
    below = math.hypot(*(value - low for value, low, _ in bounds))
    above = math.hypot(*(high - value for value, _, high in bounds))
    return total - below, total + above


def confidence(means: Sequence[Mean]) -> float:
    """Return how sure it is that the sum of the true means is above 0: 1 - p of the one-sided test.

    It is above 0.975 where the 95 % interval is above 0, and 0.5 if the sum is 0.
    """
    total = sum(item.value for item in means)
    if abs(total) <= 1e-12:
        return 0.5

    def nearest(probability: float) -> float:
        low, high = interval(means, 2 * probability - 1)
        return low if total > 0 else -high

    if nearest(_SUREST) > 0 or nearest(0.5) <= 0:
        found = _SUREST if nearest(_SUREST) > 0 else 0.5
    else:
        found = float(brentq(nearest, 0.5, _SUREST))
    return found if total > 0 else 1 - found
