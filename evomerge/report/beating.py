"""Does a merge on a front beat a parent? Better in one objective, and worse in none.

"Better" is a difference above 0, "worse in none" a difference above minus a margin in every other
objective (non-inferiority): "not surely worse" would be true of every merge that was scored on few
documents. A merge beats every parent if it beats each (an intersection-union test, Berger 1982).
The probability that a front of merges that do not is said to have one that does is at most `LEVEL`:
p-values of the objectives in which a merge may be better are multiplied by their number, and those
of the merges are corrected by Holm's method (Holm 1979).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from evomerge.report.confidence import Comparison, Interval, compare
from evomerge.report.words import short_scores
from evomerge.scores import Objective, Scores

LEVEL = 0.025
"""Largest probability of a false "beats every parent": one side of a 95 % interval."""

SHARE_MARGIN = 0.01
"""Margin of a share, if an objective names none: one point."""

OTHER_MARGIN = 0.05
"""Margin of other metrics, if an objective names none, as a share of the parent's value."""


@dataclass(frozen=True)
class Duel:
    """A merge against a parent: `task/metric` -> comparison, and by how much it may be worse."""

    objectives: Sequence[Objective]
    by_objective: Mapping[str, Comparison]
    margins: Mapping[str, float]

    def not_better(self, item: Objective) -> float:
        """Return the p-value of "not better" in an objective."""
        return 1 - self.by_objective[item.key].probability_above(0.0)

    def worse(self, item: Objective) -> float:
        """Return the p-value of "worse by the margin or more" in an objective."""
        found, margin = self.by_objective[item.key], self.margins[item.key]
        if item.is_exact:
            return float(found.difference.value < -margin)
        return 1 - found.probability_above(-margin)

    @property
    def tries(self) -> int:
        """Number of objectives in which a merge can be better by luck; 1 if all are exact."""
        return max(1, sum(not item.is_exact for item in self.objectives))

    @cached_property
    def p(self) -> float:
        """The p-value of "does not beat the parent"."""
        better = [self.not_better(item) for item in self.objectives]
        return float(p_value(better, [self.worse(item) for item in self.objectives], self.tries))

    def gains(self, level: float) -> list[str]:
        """Return the objectives in which the merge is better, in words."""
        tries = self.tries
        return [self._change(o) for o in self.objectives if self.not_better(o) * tries <= level]

    def losses(self, level: float) -> list[str]:
        """Return the objectives in which the merge may be worse by the margin, in words."""
        return [self._change(o) for o in self.objectives if self.worse(o) > level]

    def _change(self, item: Objective) -> str:
        """Return how the metric itself differs: fewer tokens are a difference below 0."""
        found = self.by_objective[item.key]
        one = found.difference
        if not item.higher_is_better:
            one = Interval(-one.value, -one.high, -one.low, one.is_exact)
        value, bounds = one.texts(found.factor, "+")
        unit = " points" if found.factor == 100.0 else ""
        return f"{self._names[item.key]} {value}{unit} {bounds}".strip()

    @property
    def margin_words(self) -> str:
        """The margins in words: `acc 1 point, tokens 5 %`."""
        return ", ".join(f"{self._names[o.key]} {self._margin_text(o)}" for o in self.objectives)

    def _margin_text(self, item: Objective) -> str:
        margin, are_shares = item.margin, self.by_objective[item.key].is_of_shares
        if margin is None and not are_shares:
            return f"{100 * OTHER_MARGIN:g} %"
        if item.is_exact or not are_shares:
            return f"{margin or 0:g}"
        points = 100 * (SHARE_MARGIN if margin is None else margin)
        return f"{points:g} {'point' if points == 1 else 'points'}"

    @cached_property
    def _names(self) -> dict[str, str]:
        return short_scores([item.key for item in self.objectives])


def duel(objectives: Sequence[Objective], ours: Scores, theirs: Scores) -> Duel | None:
    """Return a merge against a parent; None if an objective cannot be compared by document."""
    found = {item.key: compare([item], ours, theirs) for item in objectives}
    known = {key: item for key, item in found.items() if item is not None}
    if len(known) < len(found):
        return None

    def margin(item: Objective) -> float:
        if item.margin is not None:
            return item.margin
        if item.is_exact:
            return 0.0
        if known[item.key].is_of_shares:
            return SHARE_MARGIN
        return OTHER_MARGIN * abs(theirs.aggregates[item.key])

    return Duel(objectives, known, {item.key: margin(item) for item in objectives})


def p_value(
    not_better: Sequence[npt.ArrayLike], worse: Sequence[npt.ArrayLike], tries: int
) -> npt.NDArray[np.float64]:
    """Return the p-value of "not better in any objective, or worse in one", shape (...).

    `not_better` and `worse` (by the margin or more) have a p-value of shape (...) for each
    objective; `tries` is the number of objectives in which a merge can be better by luck, at least
    1.
    """
    better = np.min(np.asarray(not_better), axis=0) * tries
    return np.asarray(np.minimum(1.0, np.maximum(better, np.max(np.asarray(worse), axis=0))))


def rejected(p_values: Mapping[str, float], level: float = LEVEL) -> set[str]:
    """Return the names whose hypotheses are rejected, by Holm's method."""
    found: set[str] = set()
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        if p_values[name] > level / (len(p_values) - rank):
            break
        found.add(name)
    return found
