"""Means over documents, and sums of such means: their 95 % intervals, and tests of thresholds.

There is one method for all metrics, the score test: a threshold is tested with the variance that
the documents would have if the mean were that threshold. For answers that are right or wrong it
gives Wilson's interval (Wilson 1927); for differences of such answers Tango's (Tango 1998); for
means over several tasks that of Miettinen and Nurminen (1985). For other values their distribution
under the threshold is the one that makes the observed values most likely (empirical likelihood,
Owen 2001, chapter 2). As in the other three, it may have weight on the two bounds of the values,
also where no document was there: 20 right answers of 20 do not show that all are right.

Under a mean m below the observed one, a document with the value x has the weight
1 / (n (1 + r (x - m))). The rate r is such that the weights have this mean. Then the variance is
(observed mean - m) / r, and the statistic is z^2 = n r (observed mean - m). A sum over tasks has
rates r = k / n with the same k in all tasks, and z^2 = k (observed sum - sum of m).

Other values than shares have the wider of this interval and the usual one of Student's t at each
end: the first covers where a few documents can have values that were not seen, the second where few
documents differ at all. If their bounds are known (an answer has at most as many tokens as it may
have), these are taken, however far they are from what was observed. If they are not, they are
guessed from the observed values, and the first interval has quantiles of Student's t too. A guess
knows nothing of rare huge values: no document of a hundred shows what one of two hundred does.

scipy.stats is imported inside functions, because the import takes about a second.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

_Floats: TypeAlias = npt.NDArray[np.float64]

_BEYOND = 2.0
"""Bounds of values that have none: so many times as far from the mean as the farthest document.

Chosen by simulation, so that the intervals of skewed values cover (`benchmarks/intervals.py`).
"""

_STEPS = 100
"""Most steps of a search for a root; it takes about 8."""


@dataclass(frozen=True)
class Sample:
    """The values of the documents of one task, or of many samples at once along leading axes.

    Attributes:
        values: different values, shape (..., k).
        shares: share of the documents that have each value, shape (..., k); they add up to 1.
        size: number of documents.
        low, high: smallest and largest possible value, shape (...).
        is_bounded: whether the values are known to lie between them.
        is_share: whether they are shares, or sums and differences of shares.
    """

    values: _Floats
    shares: _Floats
    size: int
    low: _Floats
    high: _Floats
    is_bounded: bool = True
    is_share: bool = True

    @classmethod
    def of(
        cls,
        values: npt.ArrayLike,
        bounds: npt.ArrayLike = (-np.inf, np.inf),
        *,
        is_share: bool = True,
        reach: npt.ArrayLike | None = None,
    ) -> Sample:
        """Return the sample of documents with values of shape (n,), or (..., n) for many samples.

        Args:
            values: one for each document.
            bounds: smallest and largest possible value; both are infinite if they are unknown.
            is_share: whether values with known bounds are shares, or sums and differences of them.
            reach: so far from 0 a value may be at least, if bounds are unknown; shape (...).
        """
        found = np.asarray(values, dtype=np.float64)
        size = found.shape[-1]
        shares = np.full(size, 1 / size)
        if found.ndim == 1:
            found, counts = np.unique(found, return_counts=True)
            shares = counts / size
        low, high = np.asarray(bounds, dtype=np.float64)
        if np.isfinite(high - low):
            return cls(found, shares, size, np.asarray(low), np.asarray(high), is_share=is_share)
        mean = np.asarray(np.sum(shares * found, axis=-1))
        low = mean - _BEYOND * (mean - found.min(axis=-1))
        high = mean + _BEYOND * (found.max(axis=-1) - mean)
        if reach is not None:
            low, high = np.minimum(low, -np.asarray(reach)), np.maximum(high, reach)
        return cls(found, shares, size, low, high, is_bounded=False, is_share=False)

    @property
    def mean(self) -> _Floats:
        """The observed mean, shape (...)."""
        return np.asarray(np.sum(self.shares * self.values, axis=-1))

    @property
    def error(self) -> _Floats:
        """The usual standard error of the mean, shape (...); 0 for one document."""
        apart = self.values - self.mean[..., None]
        squares = np.sum(self.shares * apart**2, axis=-1)
        return np.asarray(np.sqrt(squares / max(1, self.size - 1)))

    def turned(self, sign: _Floats) -> Sample:
        """Return the sample with all values times 1 or -1, shape (...)."""
        low, high = sign * self.low, sign * self.high
        values = sign[..., None] * self.values
        return replace(self, values=values, low=np.minimum(low, high), high=np.maximum(low, high))

    def mean_at(self, rate: _Floats) -> _Floats:
        """Return the mean m, below the observed one, that belongs to a rate; both of shape (...).

        The weights must add up to 1: the harmonic mean of 1 + r (x - m) is 1. It is concave in m,
        so Newton's method converges from above. Where the weights are less than 1 even at the
        largest m that the bound allows, the rest of the weight is at the bound.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            # With a document at the bound, its weight is infinite at the largest m.
            at_bound = self.values.min(axis=-1) <= self.low
            largest = np.minimum(self.mean, self.low + (1 - 1e-10 * at_bound) / rate)
            found = largest
            for _ in range(_STEPS):
                terms = 1 / (1 + rate[..., None] * (self.values - found[..., None]))
                inverse = np.sum(self.shares * terms, axis=-1)
                slope = rate * np.sum(self.shares * terms * terms, axis=-1)
                step = np.where(rate > 0, inverse * (1 - inverse) / slope, 0.0)
                after = np.minimum(found + step, largest)
                is_done = np.abs(after - found) <= 1e-9 * (self.high - self.low)
                found = after
                if np.all(is_done):
                    break
        return np.asarray(found)


def interval(samples: Sequence[Sample], level: float = 0.95) -> tuple[_Floats, _Floats]:
    """Return the two-sided interval of the sum of the samples' true means, both of shape (...).

    There is a sample for each task, of at least two documents where values are no shares.
    """
    mean, tail = _mean(samples), (1 + level) / 2
    z = _quantile(tail, _freedom_of_guesses(samples))
    low = _lower(samples, z)
    high = -_lower([item.turned(-np.ones_like(mean)) for item in samples], z)
    if (freedom := _freedom(samples)) is not None:
        error = _quantile(tail, freedom) * _error(samples)
        low, high = np.minimum(low, mean - error), np.maximum(high, mean + error)
    return low, high


def confidence(samples: Sequence[Sample], threshold: float | _Floats = 0.0) -> _Floats:
    """Return how sure it is that the sum of the true means is above a threshold, shape (...).

    It is 1 - p of the one-sided test, so 0.5 if the observed sum is the threshold.
    """
    from scipy.stats import norm, t

    apart = _mean(samples) - threshold
    sign = np.where(apart < 0, -1.0, 1.0)
    apart, turned = np.abs(apart), [item.turned(sign) for item in samples]
    room = sign * threshold - _low(turned)
    has_room = (room > 0) & (apart > 0)
    most = np.divide(_size(samples), room, out=np.zeros_like(room), where=has_room)

    def excess(rate: _Floats) -> _Floats:
        # The inverse of the distance to the bound is nearly linear in the rate.
        distance = np.where(has_room, _mean_at(turned, rate) - _low(turned), 1.0)
        return np.asarray(np.where(has_room, room / distance - 1, 0.0))

    rate = np.where(has_room, _root(excess, most), np.inf)
    z = np.where(apart > 0, np.sqrt(rate * np.where(apart > 0, apart, 1.0)), 0.0)
    guesses, freedom = _freedom_of_guesses(samples), _freedom(samples)
    found = norm.cdf(z) if guesses is None else t.cdf(z, guesses)
    if freedom is not None:
        error = _error(samples)
        usual = np.divide(apart, error, out=np.full_like(z, np.inf), where=error > 0)
        found = np.minimum(found, t.cdf(usual, freedom))
    return np.asarray(np.where(sign > 0, found, 1 - found))


def _quantile(probability: float, freedom: int | None) -> float:
    """Return the quantile of Student's t; of the normal distribution if `freedom` is None."""
    from scipy.stats import norm, t

    return float(norm.ppf(probability) if freedom is None else t.ppf(probability, freedom))


def _freedom(samples: Sequence[Sample]) -> int | None:
    """Return the degrees of freedom of the usual interval; None if all values are shares."""
    sizes = [item.size for item in samples if not item.is_share]
    return min(sizes) - 1 if sizes else None


def _freedom_of_guesses(samples: Sequence[Sample]) -> int | None:
    """Return those of the score test's Student's t; None (normal) if all bounds are known.

    With known bounds, the normal distribution is what Wilson's interval has, and it covers.
    """
    sizes = [item.size for item in samples if not item.is_bounded]
    return min(sizes) - 1 if sizes else None


def _lower(samples: Sequence[Sample], z: float) -> _Floats:
    """Return the threshold below the sum of means that has the statistic z."""
    mean = _mean(samples)
    room = mean - _low(samples)
    most = np.divide(z**2 + _size(samples), room, out=np.zeros_like(room), where=room > 0)
    rate = _root(
        lambda rate: np.sqrt(np.maximum(rate * (mean - _mean_at(samples, rate)), 0.0)) - z, most
    )
    return _mean_at(samples, rate)


def _root(function: Callable[[_Floats], _Floats], most: _Floats) -> _Floats:
    """Return where an increasing function is 0, between 0 and `most` (Illinois method)."""
    low, high, middle = np.zeros_like(most), most, most
    below, above = function(low), function(high)
    was_below = np.zeros(most.shape, dtype=np.int64)
    for _ in range(_STEPS):
        with np.errstate(divide="ignore", invalid="ignore"):
            middle = (low * above - high * below) / (above - below)
        middle = np.where((middle > low) & (middle < high), middle, (low + high) / 2)
        value = function(middle)
        is_below = np.where(value < 0, 1, -1)
        # The value of a bound that has stayed before counts half, so that both bounds move.
        half = np.where(is_below == was_below, 0.5, 1.0)
        below = np.where(is_below > 0, value, half * below)
        above = np.where(is_below > 0, half * above, value)
        low, high = np.where(is_below > 0, middle, low), np.where(is_below > 0, high, middle)
        was_below = is_below
        if np.all((np.abs(value) < 1e-12) | (high - low <= 1e-13 * most)):
            break
    return np.asarray(middle)


def _mean_at(samples: Sequence[Sample], rate: _Floats) -> _Floats:
    return np.asarray(sum(item.mean_at(rate / item.size) for item in samples))


def _mean(samples: Sequence[Sample]) -> _Floats:
    return np.asarray(sum(item.mean for item in samples))


def _low(samples: Sequence[Sample]) -> _Floats:
    return np.asarray(sum(item.low for item in samples))


def _error(samples: Sequence[Sample]) -> _Floats:
    """Return the usual standard error of the sum of means."""
    return np.sqrt(sum(item.error**2 for item in samples))


def _size(samples: Sequence[Sample]) -> int:
    return sum(item.size for item in samples)
