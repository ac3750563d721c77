"""The uncertainty of scores: 95 % intervals, and how sure it is that one model beats another.

- Right or wrong answers: the score interval of Wilson (1927).
- Differences of such answers of two models on the same documents: the interval of Agresti and Min
  (2005), which adds half a document to each of right and right, right and wrong, wrong and right,
  wrong and wrong; with quantiles of Student's t, by which small levels too hold for few documents.
- Other values: Student's t.
- A sum over tasks: MOVER (Zou and Donner 2008). The distance from the sum to a bound is the root of
  the sum of the squares of the distances in the tasks.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri, stdtrit

from evomerge.scores import MODEL, NLL, TOKENS, TOLD, Objective, Scores, fitness

_SUREST = 1 - 1e-12


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
        """Return the value and the interval times a factor, such as `("83.0", "[80.9, 84.9]")`.

        With `+` as sign, numbers above 0 have one. `-` stands for a value that is not finite. The
        interval is empty if it is unknown, or the value exact.
        """
        if not math.isfinite(self.value):
            return "-", ""
        if self.is_exact:
            return f"{factor * self.value:{sign}z,.10g}", ""
        numbers = [factor * number for number in (self.value, self.low, self.high)]
        largest = max(abs(number) for number in numbers if math.isfinite(number))
        digits = max(1, 2 - math.floor(math.log10(largest))) if factor == 1.0 and largest else 1
        value, low, high = (f"{number:{sign}z.{digits}f}" for number in numbers)
        return value, f"[{low}, {high}]" if self.has_interval else ""

    def text(self, factor: float, sign: str = "") -> str:
        """Return `texts` as one: `87.0 [84.8, 88.9]`."""
        return " ".join(self.texts(factor, sign)).strip()

    def to_dict(self) -> dict[str, float]:
        """Return plain JSON values."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A paired comparison of one model with another.

    Attributes:
        difference: fitness of the first model minus the fitness of the other.
        probability: how sure it is that this is above 0: 1 - p of the one-sided test, above 0.975
            where the 95 % interval is above 0.
        factor: see `factor_of`.
        documents: number of documents of all tasks.
        is_turned: whether there is one metric, and less of it is better: people see its own sign.
    """

    difference: Interval
    probability: float
    factor: float = 100.0
    documents: int = 0
    is_turned: bool = False

    @property
    def raw_difference(self) -> Interval:
        """The difference with the sign of the scores themselves: below 0 for fewer nats."""
        one = self.difference
        turned = Interval(-one.value, -one.high, -one.low, one.is_exact)
        return turned if self.is_turned else one

    @property
    def cell(self) -> str:
        """The difference as text, without a unit: `+7.8 [+5.9, +9.7]`."""
        return self.raw_difference.text(self.factor, "+")

    @property
    def amount(self) -> str:
        """The difference as text: `+7.8 points [+5.9, +9.7]`."""
        value, bounds = self.raw_difference.texts(self.factor, "+")
        return f"{value}{' points' if self.factor == 100.0 else ''} {bounds}".rstrip()

    @property
    def text(self) -> str:
        """The comparison as text: `+7.8 points [+5.9, +9.7], better with probability > 0.999`."""
        sure = f"{self.probability:.3f}"  # no number of documents here supports more decimals
        sure = {"1.000": "> 0.999", "0.000": "< 0.001"}.get(sure, sure)
        return f"{self.amount}, better with probability {sure}"

    @property
    def sign(self) -> int:
        """1 or -1 if the first model is better or worse beyond doubt (95 % interval), else 0."""
        return int(self.difference.low > 0) - int(self.difference.high < 0)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"difference": self.raw_difference.to_dict(), "probability": self.probability}


class Mean(NamedTuple):
    """A mean over documents; `bounds` returns its interval of a level such as 0.95."""

    value: float
    documents: int
    bounds: Callable[[float], tuple[float, float]]


def factor_of(values: Iterable[float], key: str) -> float:
    """Return 100 if all finite values of a metric are shares, which are shown in per cent, else 1.

    The values are in the metric's own sign: what is below 0 is no share (a log-probability). Nor
    are nats, tokens, sizes of the model and told scores, however few; the key `task/metric` tells.
    """
    task, _, metric = key.rpartition("/")
    if task in (MODEL, TOLD) or metric in (NLL, TOKENS):
        return 1.0
    return 100.0 if all(0.0 <= value <= 1.0 for value in values if math.isfinite(value)) else 1.0


def factor_of_fitness(objectives: Sequence[Objective], every: Iterable[Scores]) -> float:
    """Return 100 if all objectives are shares in all scores, so that their mean is one; else 1."""
    models = list(every)
    return min(
        factor_of((scores.aggregates[objective.key] for scores in models), objective.key)
        for objective in objectives
    )


def intervals(objectives: Sequence[Objective], scores: Scores) -> dict[str, Interval]:
    """Return each objective's score with its 95 % interval over documents: `task/metric` -> both.

    The interval is unknown if a score is not the mean of its values (a perplexity), if there are no
    values, or if there is one only, which is neither right nor wrong.
    """
    estimates = {}
    for one in objectives:
        value = scores.aggregates[one.key]
        if one.is_exact:
            estimates[one.key] = Interval(value, value, value, is_exact=True)
        else:
            estimates[one.key] = _estimate(value, [_mean_of_task([(one, 1.0)], scores, None)])
    return estimates


def fitness_interval(objectives: Sequence[Objective], scores: Scores) -> Interval:
    """Return the weighted fitness with its interval; unknown if a metric is no mean of values."""
    return _estimate(fitness(objectives, scores), _means(objectives, scores))


def mean_of_runs(
    estimates: Sequence[Interval], least: float = -math.inf, most: float = math.inf
) -> Interval:
    """Return the mean over all seeds, estimated from runs of some, with its 95 % interval.

    Either half of it is sqrt(s^2 + d^2): s is that of Student's t over the runs, d the mean half of
    their own intervals over documents (MOVER). Runs often share their test documents, so d does not
    shrink with their number. One run has its own interval; the interval is unknown if that of a run
    is. `least` and `most` are the smallest and the largest possible value.
    """
    count, values = len(estimates), [one.value for one in estimates]
    mean = fmean(values)
    if count == 1 or not all(one.has_interval for one in estimates):
        return estimates[0] if count == 1 else Interval(mean)
    spread = float(stdtrit(count - 1, 0.975)) * stdev(values) / math.sqrt(count)
    below = math.hypot(spread, mean - fmean(one.low for one in estimates))
    above = math.hypot(spread, fmean(one.high for one in estimates) - mean)
    return Interval(mean, max(least, mean - below), min(most, mean + above))


def compare(objectives: Sequence[Objective], ours: Scores, theirs: Scores) -> Comparison | None:
    """Compare the weighted fitness of two models by their differences on the same documents.

    None if the documents differ, a metric is not the mean of its values, or there is one document
    only, whose answers are neither right nor wrong.
    """
    apart = fitness(objectives, ours) - fitness(objectives, theirs)
    is_turned = len(objectives) == 1 and not objectives[0].higher_is_better
    if all(objective.is_exact for objective in objectives):
        sure = 0.5 + 0.5 * (apart > 0) - 0.5 * (apart < 0)
        exact = Interval(apart, apart, apart, is_exact=True)
        return Comparison(difference=exact, probability=sure, factor=1.0, is_turned=is_turned)
    same = ours.documents == theirs.documents
    means = _means(objectives, ours, theirs) if same else [None]
    difference, known = _estimate(apart, means), [mean for mean in means if mean is not None]
    if not difference.has_interval:
        return None
    return Comparison(
        difference=difference,
        probability=confidence(known),
        factor=factor_of_fitness(objectives, (ours, theirs)),
        documents=sum(mean.documents for mean in known),
        is_turned=is_turned,
    )


def _estimate(value: float, means: Sequence[Mean | None]) -> Interval:
    """Return a sum of means with its interval; unknown if one is None."""
    known = [mean for mean in means if mean is not None]
    return Interval(value, *interval(known)) if len(known) == len(means) else Interval(value)


def _means(
    objectives: Sequence[Objective], ours: Scores, theirs: Scores | None = None
) -> list[Mean | None]:
    """Return what each task adds to the fitness, or to the difference of two, None if not known.

    Metrics of one task are added up by document; tasks are independent.
    """
    total = sum(objective.weight for objective in objectives)
    tasks: dict[str, list[tuple[Objective, float]]] = {}
    for objective in objectives:
        unit = objective.weight / total * (1.0 if objective.higher_is_better else -1.0)
        tasks.setdefault(objective.task, []).append((objective, unit))
    return [_mean_of_task(items, ours, theirs) for items in tasks.values()]


def _mean_of_task(
    weighted: Sequence[tuple[Objective, float]], ours: Scores, theirs: Scores | None
) -> Mean | None:
    """Return what a task adds; `weighted`: its objectives, and the value of 1 in each of them."""
    models = [(ours, 1.0)] if theirs is None else [(ours, 1.0), (theirs, -1.0)]
    columns = [(one, model, unit * sign) for one, unit in weighted for model, sign in models]
    if weighted[0][0].is_exact:
        value = sum(unit * model.aggregates[one.key] for one, model, unit in columns)
        return Mean(value, 0, lambda level: (value, value))
    values: Any = 0.0
    are_shares = len({unit > 0 for _, unit in weighted}) == 1
    for one, model, unit in columns:
        column = np.asarray(model.values.get(one.key, ()), dtype=np.float64)
        if not column.size or not math.isfinite(mean := model.aggregates[one.key]):
            return None
        if not math.isclose(column.mean(), mean, rel_tol=1e-9, abs_tol=1e-12):
            return None
        values = values + unit * column
        are_shares = are_shares and bool(column.min() >= 0 and column.max() <= 1)
    values = np.where(np.abs(values) <= 1e-12, 0.0, values)  # sums that are 0 up to rounding
    unit = sum(abs(unit) for _, unit in weighted) * (1.0 if weighted[0][1] > 0 else -1.0)
    return mean_of(values, unit, is_share=are_shares, is_difference=theirs is not None)


def mean_of(
    values: npt.NDArray[np.float64], unit: float, *, is_share: bool, is_difference: bool
) -> Mean | None:
    """Return the mean of values of documents, shape (n,), n > 0; None if its error is not known.

    The values are those of a model, or differences of two on the same documents. `unit` is the
    value of a right answer, below 0 if fewer are better; values of a share are from 0 to `unit`.
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
    total = sum(mean.value for mean in means)
    bounds = [(mean.value, *mean.bounds(level)) for mean in means]
    below = math.hypot(*(value - low for value, low, _ in bounds))
    above = math.hypot(*(high - value for value, _, high in bounds))
    return total - below, total + above


def confidence(means: Sequence[Mean]) -> float:
    """Return how sure it is that the sum of the true means is above 0: 1 - p of the one-sided test.

    It is above 0.975 where the 95 % interval is above 0, and 0.5 if the sum is 0.
    """
    from scipy.optimize import brentq  # whose import would double the time of `status`

    total = sum(mean.value for mean in means)
    if abs(total) <= 1e-12:
        return 0.5

    def nearest(level: float) -> float:
        low, high = interval(means, 2 * level - 1)
        return low if total > 0 else -high

    if nearest(_SUREST) > 0 or nearest(0.5) <= 0:
        probability = _SUREST if nearest(_SUREST) > 0 else 0.5
    else:
        probability = float(brentq(nearest, 0.5, _SUREST))
    return probability if total > 0 else 1 - probability
