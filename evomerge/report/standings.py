"""The standings of a run: scores of baselines and winner on every split, with intervals."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

from evomerge.report.confidence import (
    Comparison,
    Interval,
    compare,
    factor_of,
    fitness_interval,
    intervals,
)
from evomerge.run.history import BASE, Candidate, History
from evomerge.run.ranking import Ranking, best_merge, best_of, front_of, measured
from evomerge.scores import SPLITS, TOLD, Failure, Objective, Split
from evomerge.space.baselines import UNIFORM
from evomerge.words import short_names, short_scores

FITNESS = "fitness"
MERGE = "best merge"
"""Label of the best merge where a baseline wins."""

_OF_STUDY = (
    "Each candidate has the score that the study was told. There are no documents, so nothing says "
    "how sure a difference is."
)
_OF_PARENTS = (
    "Parents with another config, tokenizer, chat template or dtype than the merges are scored "
    "with their own ones on the validation and test documents, as `evomerge evaluate` does; on the "
    "search documents with those of the merges."
)

Differences: TypeAlias = Mapping[str, Comparison]
"""`task/metric` -> a merge compared with a parent; without what has no error that is known."""


@dataclass(frozen=True)
class Standing:
    """The row of a model: a parent, `uniform`, or `searched` (the winner, or the best so far).

    `estimates`: (split, `task/metric` or `fitness`) -> value with interval.
    """

    label: str
    candidate: int
    estimates: dict[tuple[Split, str], Interval]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        splits: dict[str, dict[str, Any]] = {split: {} for split in SPLITS}
        for (split, column), item in self.estimates.items():
            splits[split][column] = item.to_dict()
        return {"label": self.label, "candidate": self.candidate, "splits": splits}


class ScoreTable(NamedTuple):
    """A table of scores: a row for each model, of its name and of cells (see `Standings.cell`)."""

    title: str
    heads: tuple[str, ...]
    rows: list[tuple[str, list[tuple[str, str]]]]

    @property
    def texts(self) -> list[list[str]]:
        """The rows, with value and interval in one text: `83.0 [80.9, 84.9]`."""
        return [[name, *(" ".join(cell).strip() for cell in cells)] for name, cells in self.rows]


@dataclass(frozen=True, kw_only=True)
class Standings:
    """The table of a run, and comparisons of the searched merge with the baselines.

    Attributes:
        rows: the baselines in order, the best merge if a baseline wins, the base if it is no
            parent, then the searched merge, or the baseline that wins.
        columns: `task/metric` of each objective, then `fitness` if there are several.
        objectives: what the fitness is the mean of.
        comparisons: label of another row -> paired comparison of the last one with it.
        compared_on: the last split on which the searched merge was scored and a baseline tried, or
            all members of a front were tried.
        front: merge on the front -> parent -> how they differ there; None: there is no front.
        broken: the constraints that the best candidate breaks on the split `broken_on`, in words.
        note: what people must know of the scores, in a sentence.
        missing: label of a baseline -> why the searched merge is not compared with it.
        earlier: how many winners, or merges of fronts, the test documents had measured before.
        published: label of a row -> its name on a card.
    """

    rows: list[Standing]
    columns: list[str]
    objectives: Sequence[Objective] = ()
    comparisons: dict[str, Comparison] = field(default_factory=dict)
    compared_on: Split | None = None
    front: Mapping[str, Mapping[str, Differences]] | None = None
    has_front: bool = False
    broken: str = ""
    broken_on: Split | None = None
    note: str | None = None
    missing: dict[str, str] = field(default_factory=dict)
    earlier: int = 0
    published: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_study(self) -> bool:
        """Whether the scores were told, and are not those of documents."""
        return any(item.task == TOLD for item in self.objectives)

    @property
    def use_of_documents(self) -> str:
        """What the documents of each split were used for, in sentences."""
        what = "front" if self.has_front else "winner"
        earlier = f" They had measured another {what} before." if self.earlier else ""
        return (
            f"Candidates were compared on the search documents, the {what} was chosen on the "
            f"validation documents, and nothing was chosen on the test documents.{earlier}"
        )

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits that tables show; told scores count as those on search documents."""
        return ("search",) if self.is_study else SPLITS

    @cached_property
    def names(self) -> dict[str, str]:
        """Label of a row -> its name in a table; `searched` is `winner` if it is a baseline."""
        names = short_names(row.label for row in self.rows)
        names |= {label: name for label, name in self.published.items() if label in names}
        wins = any(row.candidate == self.rows[-1].candidate for row in self.rows[:-1])
        names |= {r.label: f"{names[r.label]} (base)" for r in self.rows if r.candidate == BASE}
        merges = (row for row in self.rows if row.label == MERGE)
        names |= {row.label: f"candidate {row.candidate} ({MERGE})" for row in merges}
        return names | ({"searched": "winner"} if wins else {})

    def factor(self, column: str) -> float:
        """Return the factor by which values of a column are multiplied when they are shown."""
        if column == FITNESS:
            return min(self.factor(item.key) for item in self.objectives)
        items = (item for row in self.rows for item in row.estimates.items())
        return factor_of((estimate.value for (_, key), estimate in items if key == column), column)

    def cell(self, row: Standing, split: Split, column: str) -> tuple[str, str]:
        """Return a value and its interval as texts: `("83.0", "[80.9, 84.9]")`; `-` if unknown."""
        item = row.estimates.get((split, column))
        return item.texts(self.factor(column)) if item else ("-", "")

    @property
    def main_column(self) -> str:
        """The column that candidates are compared by: the fitness, or the first metric."""
        return FITNESS if FITNESS in self.columns else self.columns[0]

    def tables(self) -> list[ScoreTable]:
        """Return a table for each column, the main one first; of a front or a study one of all.

        The split that nothing was chosen on is the first of a table.
        """
        if self.has_front or self.is_study:
            split = self.compared_on or "search"
            heads = {(split, key): name for key, name in short_scores(self.columns).items()}
            return [self._table("scores" if self.is_study else f"on {split} documents", heads)]
        return [
            self._table(
                f"{column} in %" if self.factor(column) == 100 else column,
                {(split, column): split for split in reversed(SPLITS)},
            )
            for column in sorted(self.columns, key=lambda column: column != self.main_column)
        ]

    def _table(self, title: str, heads: Mapping[tuple[Split, str], str]) -> ScoreTable:
        rows = [
            (self.names[row.label], [self.cell(row, *column) for column in heads])
            for row in self.rows
        ]
        return ScoreTable(title, ("model", *heads.values()), rows)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        plain: dict[str, Any] = {
            "rows": [row.to_dict() for row in self.rows],
            "compared_on": self.compared_on,
            "comparisons": {label: item.to_dict() for label, item in self.comparisons.items()},
            "missing": dict(self.missing),
        }
        if self.front is not None:
            plain["front"] = {
                merge: {name: {k: it.to_dict() for k, it in d.items()} for name, d in each.items()}
                for merge, each in self.front.items()
            }
        return plain if self.note is None else {**plain, "note": self.note}


def standings(history: History, ranking: Ranking) -> Standings:
    """Return the standings of a run."""
    best = best_of(history, ranking)
    table = (_of_front if ranking.has_front else _of_winner)(history, ranking, best)
    if table.is_study:
        table = replace(table, note=_OF_STUDY, missing={}, front=None)
    elif any(item.as_itself for item in history.baselines):
        table = replace(table, note=_OF_PARENTS)
    for split in reversed(SPLITS):
        if best is not None and (scores := best.scores(split)) is not None:
            broken = [
                f"{item.text} ({scores.aggregates[item.key]:.4g})"
                for item in ranking.constraints
                if item.violation(scores)
            ]
            return replace(table, broken=", ".join(broken), broken_on=split)
    return table


def alone(candidate: Candidate, ranking: Ranking) -> Standings:
    """Return a table with one candidate only; it has no rows if the candidate has no scores."""
    table = _with_rows(ranking, [(f"candidate {candidate.number}", candidate)])
    table = replace(table, rows=[row for row in table.rows if row.estimates])
    return replace(table, note=_OF_STUDY) if table.is_study else table


def _with_rows(
    ranking: Ranking, candidates: Sequence[tuple[str, Candidate]], **more: Any
) -> Standings:
    """Return the scores of candidates, each with the label of its row."""
    columns = list(dict.fromkeys(item.key for item in measured(ranking)))
    if len(ranking.objectives) > 1 and not ranking.has_front:
        columns.append(FITNESS)
    rows = [Standing(label, candidate.number, {}) for label, candidate in candidates]
    for row, (_, candidate) in zip(rows, candidates, strict=True):
        for split in SPLITS:
            if (scores := candidate.scores(split)) is not None:
                estimates = intervals(measured(ranking), scores)
                if FITNESS in columns:
                    estimates[FITNESS] = fitness_interval(ranking.objectives, scores)
                row.estimates.update({(split, column): estimates[column] for column in columns})
    return Standings(rows=rows, columns=columns, objectives=ranking.objectives, **more)


def _of_winner(history: History, ranking: Ranking, best: Candidate | None) -> Standings:
    baselines, tested, objectives = history.baselines, history.tested, ranking.objectives
    others = {item.name: item for item in baselines}
    if best and best.label is not None and (merge := best_merge(history, ranking)):
        others[MERGE] = merge
    rows = [*others.items(), *((item.name, item) for item in history.bases)]
    if best is None:
        return _with_rows(ranking, rows)
    earlier = tested.index(best) if best in tested else len(tested)
    table = _with_rows(ranking, [*rows, ("searched", best)], earlier=earlier)
    for split in reversed(SPLITS):
        ours = best.scores(split)
        # A baseline that failed is named; one that is not scored yet waits on the split before.
        if ours is None or not any(split in item.outcomes for item in baselines):
            continue
        known, missing = dict[str, Comparison](), dict[str, str]()
        for label, item in others.items():
            theirs = None if item is best else item.scores(split)
            if theirs and (comparison := compare(objectives, ours, theirs)):
                known[label] = comparison
            elif item is not best:
                missing[label] = _why_not_compared(item, split)
        return replace(table, comparisons=known, compared_on=split, missing=missing)
    return table


def _of_front(history: History, ranking: Ranking, best: Candidate | None) -> Standings:
    """Return the standings of a run for a front: the baselines, then the merges on the front."""
    front, baselines = front_of(history, ranking), history.baselines

    def label(item: Candidate) -> str:
        knee = " (knee)" if item is best else ""
        return item.label or f"candidate {item.number}{knee}"

    models = {item.number: item for item in (*baselines, *history.bases, *front)}
    rows = [(label(item), item) for item in models.values()]
    earlier = sum(item not in front for item in history.tested)
    table = _with_rows(ranking, rows, has_front=True, earlier=earlier)
    for split in reversed(SPLITS):
        # Some members may have failed there: this hides nothing of the others.
        if not front or not all(split in member.outcomes for member in front):
            continue
        parents = [item for item in baselines if item.label != UNIFORM]
        merges = [item for item in front if item.label is None]
        against: dict[str, dict[str, Differences]] = {label(item): {} for item in merges}
        for merge, parent in itertools.product(merges, parents):
            if differences := _differences(ranking.objectives, merge, parent, split):
                against[label(merge)][label(parent)] = differences
        missing = {
            label(item): _why_not_compared(item, split)
            for item in (*parents, *merges)
            if item.scores(split) is None
        }
        return replace(table, compared_on=split, front=against, missing=missing)
    return table


def _differences(
    objectives: Sequence[Objective], merge: Candidate, parent: Candidate, split: Split
) -> Differences:
    """Return how a merge and a parent differ in each objective."""
    ours, theirs = merge.scores(split), parent.scores(split)
    if ours is None or theirs is None:
        return {}
    each = {item.key: compare([item], ours, theirs) for item in objectives}
    return {key: item for key, item in each.items() if item is not None}


def _why_not_compared(candidate: Candidate, split: Split) -> str:
    """Return why a candidate cannot be compared on a split, as the end of a sentence."""
    outcome = candidate.outcomes.get(split)
    if outcome is None:
        return f"cannot be compared: not scored on the {split} documents"
    if isinstance(outcome, Failure):
        reason = f"{outcome.stage}: {outcome.reason}".rstrip(".")
        return f"cannot be compared: no scores on the {split} documents ({reason})"
    return "cannot be compared: a score is not a mean over the same documents"
