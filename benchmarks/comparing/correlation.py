"""Rank correlation over merges that share experts, with an interval that knows of the sharing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

_DRAWS = 500


class Correlation(NamedTuple):
    """Spearman's rank correlation with its 95 % interval over n merges."""

    value: float
    low: float
    high: float
    n: int

    @property
    def text(self) -> str:
        """As text; a star stands where the interval does not contain 0."""
        star = " *" if self.low > 0 or self.high < 0 else ""
        return f"{self.value:+.2f} [{self.low:+.2f}, {self.high:+.2f}]{star}"


def spearman(
    experts: Sequence[Sequence[str]], one: Sequence[float], other: Sequence[float]
) -> Correlation | None:
    """Return the rank correlation of two values of merges; None: one of them is the same in all.

    The interval is a bootstrap that draws experts, not merges: a merge counts as often as the
    product of its experts was drawn. Drawing merges would take those of one expert for independent.

    Args:
        experts: the experts of each merge.
    """
    first, second = np.asarray(one, float), np.asarray(other, float)
    known = np.isfinite(first) & np.isfinite(second)
    first, second = first[known], second[known]
    groups = [group for group, is_known in zip(experts, known, strict=True) if is_known]
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    value = _weighted(first, second, np.ones(len(first), int))
    names = sorted({name for group in groups for name in group})
    generator, drawn = np.random.default_rng(0), []
    for _ in range(_DRAWS):
        counts: Mapping[str, int] = dict(
            zip(
                names, generator.multinomial(len(names), [1 / len(names)] * len(names)), strict=True
            )
        )
        times = np.array([np.prod([counts[name] for name in group]) for group in groups], int)
        found = _weighted(first, second, times) if (times > 0).sum() > 2 else np.nan
        if np.isfinite(found):
            drawn.append(found)
    low, high = np.quantile(drawn, [0.025, 0.975]) if drawn else (np.nan, np.nan)
    return Correlation(value, float(low), float(high), len(first))


def _weighted(one: np.ndarray, other: np.ndarray, times: np.ndarray) -> float:
    """Return Spearman's correlation of values that occur several times."""
    ranks = [rankdata(np.repeat(values, times)) for values in (one, other)]
    if min(np.ptp(item) for item in ranks) == 0:
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])
