"""Who stands where: parents, uniform merge and winner on every split, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from evomerge.report.confidence import (
    Comparison,
    Estimate,
    compare,
    factor_of,
    fitness_interval,
    intervals,
)
from evomerge.run.history import Candidate, History
from evomerge.scores import SPLITS, Objective, Split
from evomerge.search.ranking import WeightedSum, best_of

FITNESS = "fitness"


@dataclass(frozen=True)
class Standing:
    """One model's row.

    Attributes:
        label: a parent's reference, `uniform`, or `searched`.
        candidate: its number in the run.
        estimates: (split, `task/metric` or `fitness`) -> value with interval.
    """

    label: str
    candidate: int
    estimates: dict[tuple[Split, str], Estimate]


@dataclass(frozen=True)
class Standings:
    """The table of a run, and what the winner is worth beside the others.

    Attributes:
        rows: baselines in their order, the searched merge last.
        columns: `task/metric` in the order of the objectives, then `fitness` if they are several.
        comparisons: label of another row -> paired comparison of the searched merge with it, on
            the last split that both were scored on.
        compared_on: that split.
    """

    rows: list[Standing]
    columns: list[str]
    comparisons: dict[str, Comparison] = field(default_factory=dict)
    compared_on: Split | None = None

    def factor(self, column: str) -> float:
        """Return what a column's figures are multiplied by when shown; see `factor_of`."""
        return factor_of(
            item.value
            for row in self.rows
            for (_, key), item in row.estimates.items()
            if key == column
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "rows": [
                {
                    "label": row.label,
                    "candidate": row.candidate,
                    "splits": {
                        split: {
                            column: row.estimates[split, column].to_dict()
                            for column in self.columns
                            if (split, column) in row.estimates
                        }
                        for split in SPLITS
                    },
                }
                for row in self.rows
            ],
            "compared_on": self.compared_on,
            "comparisons": {label: item.to_dict() for label, item in self.comparisons.items()},
        }


def standings(history: History, objectives: Sequence[Objective]) -> Standings:
    """Compute the table from a run's history."""
    columns = list(dict.fromkeys(item.key for item in objectives))
    if len(objectives) > 1:
        columns.append(FITNESS)
    rows = [_row(item, item.name, columns, objectives) for item in history.baselines]
    best = best_of(history, WeightedSum(objectives))
    if best is None:
        return Standings(rows, columns)
    rows.append(_row(best, "searched", columns, objectives))
    for split in reversed(SPLITS):
        own = best.scores(split)
        others = {item.name: item.scores(split) for item in history.baselines}
        if own is not None and any(others.values()):
            found = {
                label: compare(objectives, own, scores)
                for label, scores in others.items()
                if scores is not None
            }
            kept = {label: item for label, item in found.items() if item is not None}
            return Standings(rows, columns, kept, split)
    return Standings(rows, columns)


def _row(
    candidate: Candidate, label: str, columns: list[str], objectives: Sequence[Objective]
) -> Standing:
    estimates: dict[tuple[Split, str], Estimate] = {}
    for split in SPLITS:
        scores = candidate.scores(split)
        if scores is not None:
            found = intervals(objectives, scores)
            if FITNESS in columns:
                found[FITNESS] = fitness_interval(objectives, scores)
            estimates |= {(split, column): found[column] for column in columns}
    return Standing(label, candidate.number, estimates)
