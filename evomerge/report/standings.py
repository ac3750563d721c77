"""The standings of a run: what its tables have in common, whichever answer the run gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Self, TypeAlias

from evomerge.errors import listed
from evomerge.report.confidence import Comparison, Interval, factor_of, fitness_interval, intervals
from evomerge.run.history import BASE, Candidate
from evomerge.run.ranking import Ranking, measured
from evomerge.scores import SPLITS, Objective, Split
from evomerge.words import short_names, short_scores

FITNESS = "fitness"
MERGE = "best merge"
"""Label of the best merge where a baseline wins."""


Differences: TypeAlias = Mapping[str, Comparison]
"""`task/metric` -> a merge compared with a parent; without what has no error that is known."""


class Verdict(NamedTuple):
    """Whether the merge is better than every baseline beyond doubt (None: unknown); in words."""

    works: bool | None
    text: str


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
        for (split, column), interval in self.estimates.items():
            splits[split][column] = interval.to_dict()
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
class Standings(ABC):
    """The table of a run, and what it says of the best candidate.

    Attributes:
        rows: the models in order.
        columns: `task/metric` of each objective, then `fitness` if candidates compare by several.
        objectives: what the fitness is the mean of.
        comparisons: label of another row -> paired comparison of the last one with it.
        compared_on: the last split on which the searched merge was scored and a baseline tried, or
            all members of a front were tried.
        front: merge on the front -> parent -> how they differ; None: not all of them were tried.
        best_is: what the best candidate is, as the start of a sentence.
        who: what sentences call the best candidate; "": its name.
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
    best_is: str = "The best so far"
    who: str = ""
    broken: str = ""
    broken_on: Split | None = None
    note: str | None = None
    missing: dict[str, str] = field(default_factory=dict)
    earlier: int = 0
    published: Mapping[str, str] = field(default_factory=dict)

    chosen: ClassVar[str] = "winner"
    """What the validation documents choose."""
    splits: ClassVar[tuple[Split, ...]] = SPLITS
    """The splits that tables show."""
    has_fitness: ClassVar[bool] = False
    """Whether several objectives have a column of their weighted mean."""
    has_chart: ClassVar[bool] = False
    """Whether a report has a picture of the models."""
    has_documents: ClassVar[bool] = True
    """Whether scores are means over documents, with intervals, which evomerge can repeat."""

    @classmethod
    def with_rows(
        cls, ranking: Ranking, candidates: Sequence[tuple[str, Candidate]], **more: Any
    ) -> Self:
        """Return the scores of candidates, each with the label of its row."""
        columns = list(dict.fromkeys(objective.key for objective in measured(ranking)))
        if cls.has_fitness and len(ranking.objectives) > 1:
            columns.append(FITNESS)
        rows = [Standing(label, candidate.number, {}) for label, candidate in candidates]
        for row, (_, candidate) in zip(rows, candidates, strict=True):
            for split in SPLITS:
                if (scores := candidate.scores(split)) is not None:
                    estimates = intervals(measured(ranking), scores)
                    if FITNESS in columns:
                        estimates[FITNESS] = fitness_interval(ranking.objectives, scores)
                    row.estimates.update({(split, column): estimates[column] for column in columns})
        return cls(rows=rows, columns=columns, objectives=ranking.objectives, **more)

    @abstractmethod
    def tables(self) -> list[ScoreTable]:
        """Return the tables that people read, the main one first."""

    @abstractmethod
    def answer(self, best: Candidate, advice: str) -> Verdict:
        """Return the verdict on the best candidate, but for constraints; see `verdict`."""

    def verdict(self, best: Candidate | None, advice: str = "") -> Verdict:
        """Return whether the best candidate is better than the parents and the uniform merge.

        `advice` ends the answer if there is no evidence.
        """
        if best is None:
            return Verdict(None, "No candidate has been scored yet.")
        answer = self.answer(best, advice)
        if not self.broken:
            return answer
        who = self.who or self.name_of(best)
        where = f" on the {self.broken_on} documents" if self.has_documents else ""
        text = f"{answer.text} But {who} breaks{where}: {self.broken}."
        return Verdict(answer.works and False, text)

    def differences(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]] | None:
        """Return headers and rows of the merges on a front: how each differs from each parent."""
        names, rows = short_scores(self.columns), []
        for merge, parents in (self.front or {}).items():
            for parent, differences in parents.items():
                cells = [differences[key].cell if key in differences else "-" for key in names]
                rows.append((f"{self.names[merge]} - {self.names[parent]}", *cells))
        return ((f"on {self.compared_on}", *names.values()), rows) if rows else None

    def name_of(self, candidate: Candidate) -> str:
        """Return the name of a candidate in the table, or its number."""
        return self.names.get(candidate.name, f"candidate {candidate.number}")

    @property
    def use_of_documents(self) -> str:
        """What the documents of each split were used for, in sentences."""
        earlier = f" They had measured another {self.chosen} before." if self.earlier else ""
        return (
            f"Candidates were compared on the search documents, the {self.chosen} was chosen on "
            f"the validation documents, and nothing was chosen on the test documents.{earlier}"
        )

    @property
    def not_compared(self) -> str:
        """Who is not compared, and why, as the part of a sentence."""
        names: dict[str, list[str]] = {}
        for label, why in self.missing.items():
            names.setdefault(why, []).append(self.names[label])
        return "; ".join(f"{listed(those)} {why}" for why, those in names.items())

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
            return min(self.factor(objective.key) for objective in self.objectives)
        items = (item for row in self.rows for item in row.estimates.items())
        return factor_of((estimate.value for (_, key), estimate in items if key == column), column)

    def cell(self, row: Standing, split: Split, column: str) -> tuple[str, str]:
        """Return a value and its interval as texts: `("83.0", "[80.9, 84.9]")`; `-` if unknown."""
        interval = row.estimates.get((split, column))
        return interval.texts(self.factor(column)) if interval else ("-", "")

    @property
    def main_column(self) -> str:
        """The column that candidates are compared by: the fitness, or the first metric."""
        return FITNESS if FITNESS in self.columns else self.columns[0]

    def main_values(self, split: Split) -> dict[str, float]:
        """Return label -> what models are compared by on a split, as far as they have it."""
        key = (split, self.main_column)
        return {row.label: row.estimates[key].value for row in self.rows if key in row.estimates}

    def whole_table(self, title: str, split: Split) -> ScoreTable:
        """Return a table of all columns on one split."""
        heads = {(split, key): name for key, name in short_scores(self.columns).items()}
        return self.table(title, heads)

    def table(self, title: str, heads: Mapping[tuple[Split, str], str]) -> ScoreTable:
        """Return a table of some columns: (split, column) -> header."""
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
            "comparisons": {label: one.to_dict() for label, one in self.comparisons.items()},
            "missing": dict(self.missing),
        }
        if self.front is not None:
            plain["front"] = {
                merge: {
                    name: {k: d.to_dict() for k, d in one.items()} for name, one in each.items()
                }
                for merge, each in self.front.items()
            }
        return plain if self.note is None else {**plain, "note": self.note}
