"""The results of many searches in one table: means over seeds, intervals, costs, paired tests."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from evomerge.errors import EvomergeError
from evomerge.report.confidence import (
    Comparison,
    Interval,
    compare,
    factor_of_fitness,
    fitness_interval,
    mean_over_runs,
)
from evomerge.report.view import View
from evomerge.run.folder import RunFolder, is_begun
from evomerge.scores import Scores, fitness
from evomerge.space.baselines import UNIFORM

_BEST, _UNIFORM = "best parent", "uniform"


@dataclass(frozen=True)
class Ran:
    """A search of a sweep: what it is, its seed, its run folder, and why it failed."""

    group: str
    seed: int
    folder: Path
    error: str | None = None

    @cached_property
    def view(self) -> View | None:
        """The run as it is now; None if there is none that can be read."""
        if not is_begun(self.folder):
            return None
        try:
            return View.of(RunFolder(self.folder))
        except EvomergeError:
            return None

    @property
    def state(self) -> str:
        """`done`, `failed` or `open`."""
        if self.error is not None:
            return "failed"
        return "open" if self.test is None else "done"

    @property
    def test(self) -> Scores | None:
        """The winner's scores on test documents."""
        winner = self.view.history.winner if self.view else None
        return winner.scores("test") if winner else None

    def baseline(self, kind: str) -> float | None:
        """Return the fitness on test documents of the best parent, or of the uniform merge."""
        if self.view is None or self.view.ranking.has_front:
            return None
        found = [
            fitness(self.view.ranking.objectives, scores)
            for item in self.view.history.baselines
            if (scores := item.scores("test")) is not None
            and (item.label == UNIFORM) == (kind == _UNIFORM)
        ]
        return max(found, default=None)

    @property
    def estimate(self) -> Interval | None:
        """The winner's fitness on test documents, with its interval over documents."""
        if self.view is None or self.test is None or self.view.ranking.has_front:
            return None
        return fitness_interval(self.view.ranking.objectives, self.test)

    @property
    def cpu_seconds(self) -> float | None:
        """CPU seconds of all its work."""
        return self.view.run.timings.cpu_seconds()[1] if self.view else None

    @property
    def candidates(self) -> int | None:
        """Number of its candidates."""
        return len(self.view.history.candidates) if self.view else None


@dataclass(frozen=True)
class Difference:
    """One group minus another: paired by seed, and in each seed by document.

    Attributes:
        first, second: names of the groups.
        mean: mean over seeds, see `mean_over_runs`.
        by_seed: seed -> paired comparison on the same test documents.
        factor: 100 for shares, else 1.
    """

    first: str
    second: str
    mean: Interval
    by_seed: dict[int, Comparison]
    factor: float

    @property
    def text(self) -> str:
        """The difference in words."""
        better = sum(item.sign > 0 for item in self.by_seed.values())
        worse = sum(item.sign < 0 for item in self.by_seed.values())
        value = " ".join(self.mean.texts(self.factor, "+")).strip()
        seeds = f"{len(self.by_seed)} seed{'' if len(self.by_seed) == 1 else 's'}"
        return (
            f"{self.first} - {self.second}: {value} over {seeds}; on its test documents better "
            f"beyond doubt with {better}, worse with {worse}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "first": self.first,
            "second": self.second,
            "mean": self.mean.to_dict(),
            "by_seed": {str(seed): item.to_dict() for seed, item in self.by_seed.items()},
        }


@dataclass(frozen=True)
class SweepTable:
    """The searches of a sweep by group.

    Attributes:
        groups: name of a group -> its searches, one for each seed.
    """

    groups: dict[str, list[Ran]]

    @classmethod
    def of(cls, searches: Iterable[Ran]) -> SweepTable:
        """Return the table of searches."""
        groups: dict[str, list[Ran]] = {}
        for item in searches:
            groups.setdefault(item.group, []).append(item)
        return cls(groups)

    @property
    def failed(self) -> list[Ran]:
        """The searches that failed."""
        return [item for group in self.groups.values() for item in group if item.error is not None]

    def score(self, group: str) -> Interval | None:
        """Return the mean score of a group on test documents, see `mean_over_runs`."""
        found = [item.estimate for item in self.groups[group] if item.estimate is not None]
        least, most = (0.0, 1.0) if self.factor(group) == 100 else (-math.inf, math.inf)
        return mean_over_runs(found, least, most) if found else None

    def factor(self, group: str) -> float:
        """Return 100 if the scores of a group are shares, which are shown in per cent, else 1."""
        tests = [(item.view, item.test) for item in self.groups[group]]
        known = [(view, test) for view, test in tests if view is not None and test is not None]
        if not known or known[0][0].ranking.has_front:
            return 1.0
        return factor_of_fitness(known[0][0].ranking.objectives, [test for _, test in known])

    def rows(self) -> tuple[tuple[str, ...], list[list[str]]]:
        """Return headers and rows: a row for each group, and below them one for each failure."""
        heads = ("search", "seeds", "test", _BEST, _UNIFORM, "candidates", "CPU s")
        rows = []
        for name, group in self.groups.items():
            factor, score = self.factor(name), self.score(name)
            done = sum(item.state == "done" for item in group)
            rows.append(
                [
                    name,
                    str(done) if done == len(group) else f"{done} of {len(group)}",
                    " ".join(score.texts(factor)).strip() if score else "-",
                    *(_mean([item.baseline(k) for item in group], factor) for k in heads[3:5]),
                    _mean([item.candidates for item in group], digits=0),
                    _mean([item.cpu_seconds for item in group], digits=0),
                ]
            )
        return heads, rows

    @cached_property
    def differences(self) -> list[Difference]:
        """Each two groups that were scored on the same test documents with some seed."""
        found = (self._difference(*pair) for pair in itertools.combinations(self.groups, 2))
        return [item for item in found if item is not None]

    def _difference(self, first: str, second: str) -> Difference | None:
        others = {item.seed: item for item in self.groups[second]}
        by_seed: dict[int, Comparison] = {}
        for ours in self.groups[first]:
            theirs = others.get(ours.seed)
            if theirs is None or ours.view is None or theirs.view is None:
                continue
            one, two, ranking = ours.test, theirs.test, ours.view.ranking
            if one is None or two is None or ranking.has_front:
                continue
            if ranking.objectives != theirs.view.ranking.objectives:
                continue
            if (item := compare(ranking.objectives, one, two)) is not None:
                by_seed[ours.seed] = item
        if not by_seed:
            return None
        factor = min(item.factor for item in by_seed.values())
        most = 1.0 if factor == 100 else math.inf
        mean = mean_over_runs([item.difference for item in by_seed.values()], -most, most)
        return Difference(first, second, mean, by_seed, factor)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "searches": [
                {
                    "group": name,
                    "seed": item.seed,
                    "run": str(item.folder),
                    "state": item.state,
                    "error": item.error,
                    "test": item.estimate.to_dict() if item.estimate else None,
                    "scores": dict(item.test.aggregates) if item.test else None,
                    "best_parent": item.baseline(_BEST),
                    "uniform": item.baseline(_UNIFORM),
                    "candidates": item.candidates,
                    "cpu_seconds": item.cpu_seconds,
                }
                for name, group in self.groups.items()
                for item in group
            ],
            "groups": {
                name: score.to_dict() if (score := self.score(name)) else None
                for name in self.groups
            },
            "differences": [item.to_dict() for item in self.differences],
        }


def _mean(values: Sequence[float | None], factor: float = 1.0, digits: int = 1) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    digits = 3 if factor == 1.0 and digits == 1 else digits
    return f"{factor * fmean(known):,.{digits}f}"
