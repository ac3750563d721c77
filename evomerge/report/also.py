"""What winner, parents and base are scored on besides the objectives: what a merge has lost."""

from collections.abc import Iterator
from dataclasses import dataclass

from evomerge.errors import listed
from evomerge.report.confidence import Comparison, Interval, compare, factor_of, intervals
from evomerge.report.standings import ScoreTable, Verdict
from evomerge.run.history import Candidate, History
from evomerge.run.ranking import Ranking, to_test
from evomerge.scores import BASE_TEXTS, Objective
from evomerge.space.baselines import UNIFORM
from evomerge.words import short_names, shown_score


@dataclass(frozen=True)
class Kept:
    """What the tested models have of one measure, on test documents.

    Attributes:
        objective: what is measured.
        values: name of a model -> its score, the base last.
        changes: name of a model -> its difference to the base; without a base there are none.
        factor: by which values are multiplied when they are shown.
    """

    objective: Objective
    values: dict[str, Interval]
    changes: dict[str, Comparison]
    factor: float

    @property
    def name(self) -> str:
        """What the measure is, in words."""
        return (
            "the base's own texts"
            if self.objective.task == BASE_TEXTS
            else shown_score(self.objective.key)
        )

    def change(self, name: str) -> str:
        """Return a model's difference to the base, with its unit."""
        value, bounds = self._difference(self.changes[name])
        unit = "nats a token" if self.objective.task == BASE_TEXTS else ""
        unit = "points" if self.changes[name].factor == 100 else unit
        return " ".join(filter(None, (value, unit, bounds)))

    @staticmethod
    def _difference(change: Comparison) -> tuple[str, str]:
        return change.raw_difference.texts(change.factor, "+")

    def table(self) -> ScoreTable:
        """Return the table of the models."""
        unit = " in nats a token" if self.objective.task == BASE_TEXTS else ""
        title = self.name + (" in %" if self.factor == 100 else unit)
        rows = []
        for name, value in self.values.items():
            cells = [value.texts(self.factor)]
            if self.changes:
                change = self.changes.get(name)
                cells.append(self._difference(change) if change else ("-", ""))
            rows.append((name, cells))
        heads = ("model", "test", *(["minus base"] if self.changes else []))
        return ScoreTable(title, heads, rows)

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON values."""
        return {
            "measure": self.objective.key,
            "values": {name: value.to_dict() for name, value in self.values.items()},
            "changes": {name: change.to_dict() for name, change in self.changes.items()},
        }


def kept_measures(
    also: tuple[Objective, ...], history: History, ranking: Ranking, base: str | None
) -> list[Kept]:
    """Return what was measured besides; nothing before the winner has test scores.

    Args:
        also: what is measured.
        history: of the run.
        ranking: of the run.
        base: reference of the base; None: the search has none.
    """
    winner = history.winner
    if winner is None or winner.scores("test") is None:
        return []
    others = [one for one in to_test(history, ranking) if one.label not in (None, UNIFORM, base)]
    bases = [one for one in (*history.bases, *history.baselines) if base and one.label == base]
    models = [winner, *(one for one in others if one is not winner)]
    names = short_names([one.name for one in (*models, *bases)])
    kept = []
    for objective in also:
        rows = list(_measured(objective, [*models, *bases[:1]]))
        values = {_called(one, winner, names): value for one, value in rows}
        changes = {}
        ground = bases[0].scores("test") if bases else None
        for one in models:
            scores = one.scores("test")
            if ground and scores and one not in bases:
                comparison = compare([objective], scores, ground)
                if comparison is not None:
                    changes[_called(one, winner, names)] = comparison
        factor = factor_of((value.value for value in values.values()), objective.key)
        kept += [Kept(objective, values, changes, factor)] if values else []
    return kept


def _measured(
    objective: Objective, models: list[Candidate]
) -> Iterator[tuple[Candidate, Interval]]:
    for one in models:
        scores = one.scores("test")
        if scores is not None and objective.key in scores.aggregates:
            yield one, intervals([objective], scores)[objective.key]


def _called(one: Candidate, winner: Candidate, names: dict[str, str]) -> str:
    return "searched" if one is winner and one.label is None else names[one.name]


def with_losses(verdict: Verdict, kept: list[Kept]) -> Verdict:
    """Return a verdict that also says what the searched merge has lost against the base."""
    lost, safe = list[str](), list[str]()
    for measure in kept:
        if "searched" not in measure.changes:
            continue
        if measure.changes["searched"].sign >= 0:
            safe.append(measure.name)
            continue
        others = [
            f"{name} {measure.change(name)}" for name in measure.changes if name != "searched"
        ]
        beside = f"; {', '.join(others)}" if others else ""
        lost.append(f"{measure.name} ({measure.change('searched')}{beside})")
    text = verdict.text
    if lost:
        text += f" Against the base it is worse on {listed(lost)}."
    if safe:
        text += f" No loss against the base is beyond doubt on {listed(safe)}."
    return verdict._replace(text=text)
