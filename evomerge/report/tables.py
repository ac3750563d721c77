"""The standings of any run: of a winner, of a front, or of a study."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Self

from evomerge.errors import listed
from evomerge.report.confidence import Comparison, compare
from evomerge.report.standings import MERGE, Differences, ScoreTable, Standings, Verdict
from evomerge.run.history import BASE, Candidate, History
from evomerge.run.ranking import Ranking, best_merge, best_of, front_of
from evomerge.scores import SPLITS, TOLD, Failure, Objective, Split
from evomerge.space.baselines import UNIFORM
from evomerge.words import short_scores, shown_score

_OF_STUDY = (
    "Each candidate has the score that the study was told. There are no documents, so nothing says "
    "how sure a difference is."
)
_OF_PARENTS = (
    "Parents with another config, tokenizer, chat template or dtype than the merges are scored "
    "with their own ones on the validation and test documents, as `evomerge evaluate` does; on the "
    "search documents with those of the merges."
)


def standings(history: History, ranking: Ranking) -> Standings:
    """Return the standings of a run."""
    best = best_of(history, ranking)
    make = front_standings if ranking.has_front else winner_standings
    table: Standings = make(history, ranking, best)
    if _is_told(ranking):
        table = Study.of(table)
    elif any(baseline.as_itself for baseline in history.baselines):
        table = replace(table, note=_OF_PARENTS)
    for split in reversed(SPLITS):
        if best is not None and (scores := best.scores(split)) is not None:
            broken = [
                f"{bound.text} ({scores.aggregates[bound.key]:.4g})"
                for bound in ranking.constraints
                if bound.violation(scores)
            ]
            return replace(table, broken=", ".join(broken), broken_on=split)
    return table


def alone(candidate: Candidate, ranking: Ranking) -> Standings:
    """Return a table with one candidate only; it has no rows if the candidate has no scores."""
    kind = Front if ranking.has_front else Winner
    table: Standings = kind.with_rows(ranking, [(f"candidate {candidate.number}", candidate)])
    table = replace(table, rows=[row for row in table.rows if row.estimates])
    return Study.of(table) if _is_told(ranking) else table


def _is_told(ranking: Ranking) -> bool:
    return any(objective.task == TOLD for objective in ranking.objectives)


@dataclass(frozen=True, kw_only=True)
class Winner(Standings):
    """The baselines, the best merge if a baseline wins, the base if it is no parent, the winner.

    The searched merge is better than the baselines if on the test documents the p-value of "not
    better" is at most `level` for each of them. It is worse if that of "not worse" is at most
    `level` divided by their number for one of them: each comparison is another chance for luck
    (Bonferroni), whereas better it must be in all.
    """

    has_fitness: ClassVar[bool] = True
    has_chart: ClassVar[bool] = True

    def tables(self) -> list[ScoreTable]:
        """Return a table for each column; the split that nothing was chosen on comes first."""
        return [
            self.table(
                shown_score(column) + " in %" * (self.factor(column) == 100),
                {(split, column): split for split in reversed(SPLITS)},
            )
            for column in sorted(self.columns, key=lambda column: column != self.main_column)
        ]

    def answer(self, best: Candidate, advice: str) -> Verdict:
        """Return whether the searched merge is better than all baselines."""
        names, compared, missing = self.names, self.comparisons, self.not_compared
        losses = _lost(self, self.compared_on) if self.compared_on else ""
        keys = [shown_score(objective.key) for objective in self.objectives]
        mean = f" in the weighted mean of {listed(keys)}" if len(keys) > 1 else ""
        besides = f" Besides, {missing}." if missing else ""
        none = "No evidence of improvement"
        if best.label is not None and self.compared_on != "search":
            text = f"no merge that was searched beats {names[best.label]}, which is the winner "
            text += f"itself{_tied(self)}.{losses}{_beside_others(self, best.label, mean)}{besides}"
            return Verdict(False, f"{none}: {text}{advice}")
        if self.compared_on != "test":
            text = f"{self.name_of(best)} is the best so far, but "
            text += "not all that it is compared with was scored on the test documents."
            return Verdict(None, f"Not known yet: {text}")
        if not compared:
            return Verdict(None, f"No verdict: {missing}.{losses}")
        largest, where = level(self.earlier + 1), "on the test documents the searched merge"
        each = largest / len(compared)
        worse = {label: one for label, one in compared.items() if one.probability <= each}
        doubtful = {k: one for k, one in compared.items() if 1 - one.probability > largest}
        nearest, closest = _nearest(worse or doubtful or compared)
        figures = f"{names[nearest]} ({closest.text})."
        if worse:
            text = f"No: {where} is worse than {listed(names[label] for label in worse)}{mean}."
            text += f"{losses} The largest difference is to {figures}{besides}{advice}"
            return Verdict(False, text)
        close = f"{mean}.{losses} The closest is {figures}{_needed(self, closest)}{besides}"
        if doubtful:
            others = listed(names[label] for label in doubtful)
            return Verdict(False, f"{none}: {where} may be no better than {others}{close}{advice}")
        if missing:
            better = f"{where} is better than {listed(names[label] for label in compared)}{mean}"
            return Verdict(None, f"No verdict: {better}, but {missing}.{losses}")
        every = "each parent and the uniform merge" if UNIFORM in compared else "each parent"
        return Verdict(True, f"Yes: {where} is better than {every}{close}")


@dataclass(frozen=True, kw_only=True)
class Front(Standings):
    """The baselines, the base if it is no parent, and the merges on the front.

    A front has no verdict, but a sentence of its knee and each parent.
    """

    chosen: ClassVar[str] = "front"

    def tables(self) -> list[ScoreTable]:
        """Return one table of all objectives."""
        split = self.compared_on or "search"
        return [self.whole_table(f"on {split} documents", split)]

    def answer(self, best: Candidate, advice: str) -> Verdict:
        """Return how the knee differs from each parent."""
        if self.front is None or self.compared_on != "test":
            return Verdict(None, "Not known yet: the front has no scores on the test documents.")
        if not self.front:
            text = "only parents and the uniform merge are on the front."
            return Verdict(False, f"No evidence of improvement: {text}")
        merges = f"{len(self.front)} merge{'s' * (len(self.front) > 1)}"
        text = f"No verdict on a front of {merges}: which is best depends on what counts."
        knee = next(row.label for row in self.rows if row.candidate == best.number)
        for parent, differences in self.front.get(knee, {}).items():
            how = _in_words(differences, short_scores(self.columns))
            text += f" Against {self.names[parent]}, {self.names[knee]} is {how}."
        missing = self.not_compared
        return Verdict(None, f"{text} Besides, {missing}." if missing else text)


@dataclass(frozen=True, kw_only=True)
class Study(Standings):
    """The standings of a study: told scores, which have no documents and so no intervals."""

    splits: ClassVar[tuple[Split, ...]] = ("search",)
    has_documents: ClassVar[bool] = False

    @classmethod
    def of(cls, table: Standings) -> Self:
        """Return the standings of a study from the standings of its winner or front."""
        values = {attribute.name: getattr(table, attribute.name) for attribute in fields(Standings)}
        return cls(**values | {"note": _OF_STUDY, "missing": {}, "front": None})

    def tables(self) -> list[ScoreTable]:
        """Return one table of all scores."""
        return [self.whole_table("scores", self.compared_on or "search")]

    def answer(self, best: Candidate, advice: str) -> Verdict:
        """Return that there is no verdict."""
        why = "by the scores that the study was told; to see whether it is better than the parents"
        text = f"{self.name_of(best)} leads {why}, score it and them again."
        return Verdict(None, f"No verdict: {text}")


def winner_standings(history: History, ranking: Ranking, best: Candidate | None) -> Winner:
    """Return the baselines, and how the winner compares with them."""
    baselines, tested, objectives = history.baselines, history.tested, ranking.objectives
    others = {candidate.name: candidate for candidate in baselines}
    if best and best.label is not None and (merge := best_merge(history, ranking)):
        others[MERGE] = merge
    rows = [*others.items(), *((candidate.name, candidate) for candidate in history.bases)]
    if best is None:
        return Winner.with_rows(ranking, rows)
    earlier = tested.index(best) if best in tested else len(tested)
    best_is = "The winner" if history.winner is best else "The best so far"
    table = Winner.with_rows(ranking, [*rows, ("searched", best)], earlier=earlier, best_is=best_is)
    for split in reversed(SPLITS):
        ours = best.scores(split)
        # A baseline that failed is named; one that is not scored yet waits on the split before.
        if ours is None or not any(split in baseline.outcomes for baseline in baselines):
            continue
        compared, missing = dict[str, Comparison](), dict[str, str]()
        for label, candidate in others.items():
            theirs = None if candidate is best else candidate.scores(split)
            if theirs and (comparison := compare(objectives, ours, theirs)):
                compared[label] = comparison
            elif candidate is not best:
                missing[label] = _why_not_compared(candidate, split)
        return replace(table, comparisons=compared, compared_on=split, missing=missing)
    return table


def front_standings(history: History, ranking: Ranking, best: Candidate | None) -> Front:
    """Return the baselines, and the merges on the front, each compared with each parent."""
    front, baselines = front_of(history, ranking), history.baselines

    def label(candidate: Candidate) -> str:
        knee = " (knee)" if candidate is best else ""
        return candidate.label or f"candidate {candidate.number}{knee}"

    models = {candidate.number: candidate for candidate in (*baselines, *history.bases, *front)}
    rows = [(label(candidate), candidate) for candidate in models.values()]
    earlier = sum(candidate not in front for candidate in history.tested)
    table = Front.with_rows(
        ranking, rows, earlier=earlier, best_is="The knee of the front", who="the knee"
    )
    for split in reversed(SPLITS):
        # Some members may have failed there: this hides nothing of the others.
        if not front or not all(split in member.outcomes for member in front):
            continue
        parents = [candidate for candidate in baselines if candidate.label != UNIFORM]
        merges = [candidate for candidate in front if candidate.label is None]
        against: dict[str, dict[str, Differences]] = {label(candidate): {} for candidate in merges}
        for merge, parent in itertools.product(merges, parents):
            if differences := _differences(ranking.objectives, merge, parent, split):
                against[label(merge)][label(parent)] = differences
        missing = {
            label(candidate): _why_not_compared(candidate, split)
            for candidate in (*parents, *merges)
            if candidate.scores(split) is None
        }
        return replace(table, compared_on=split, front=against, missing=missing)
    return table


def _why_not_compared(candidate: Candidate, split: Split) -> str:
    """Return why a candidate cannot be compared on a split, as the end of a sentence."""
    outcome = candidate.outcomes.get(split)
    if outcome is None:
        return f"cannot be compared: not scored on the {split} documents"
    if isinstance(outcome, Failure):
        reason = f"{outcome.stage}: {outcome.reason}".rstrip(".")
        return f"cannot be compared: no scores on the {split} documents ({reason})"
    return "cannot be compared: a score is not a mean over the same documents"


def _differences(
    objectives: Sequence[Objective], merge: Candidate, parent: Candidate, split: Split
) -> Differences:
    """Return how a merge and a parent differ in each objective."""
    ours, theirs = merge.scores(split), parent.scores(split)
    if ours is None or theirs is None:
        return {}
    each = {objective.key: compare([objective], ours, theirs) for objective in objectives}
    return {key: comparison for key, comparison in each.items() if comparison is not None}


def _in_words(differences: Differences, names: Mapping[str, str]) -> str:
    """Return how a merge differs: `better in acc (+3.0 points [1.0, 5.1]), worse in tokens (...)`.

    `names`: `task/metric` -> what people read. Better and worse are beyond doubt: their 95 %
    intervals do not contain 0.
    """
    parts = []
    for sign, words in {1: "better in", -1: "worse in", 0: "perhaps the same in"}.items():
        texts = [f"{names[k]} ({d.amount})" for k, d in differences.items() if d.sign == sign]
        parts += [f"{words} {listed(texts)}"] if texts else []
    return ", ".join(parts)


def level(winner: int) -> float:
    """Return the p-value at which a winner is better, the first one that documents measure being 1.

    .02, .0025, .00125 and so on: a search that is resumed measures one winner after the other on
    the same documents. These add up to no more than .025, one side of a 95 % interval (Bonferroni).
    """
    return 0.02 if winner == 1 else 0.005 / 2 ** (winner - 1)


def _beside_others(table: Standings, winner: str, mean: str) -> str:
    """Return how an average that wins compares with the parents, or a parent with merges."""
    is_parent = winner != UNIFORM
    compared = table.comparisons.items()
    others = {label: one for label, one in compared if (label in (UNIFORM, MERGE)) == is_parent}
    if not others or table.compared_on != "test":
        return ""
    nearest, closest = _nearest(others)
    against = f"against {table.names[nearest]} {table.names[winner]} has {closest.text}{mean}"
    return f" On the test documents, {against}."


def _tied(table: Standings) -> str:
    """Return that the best merge is as good as the baseline that wins, if it is."""
    values = table.main_values("validation")
    is_tied = MERGE in values and values[MERGE] == values.get("searched")
    return f"; {table.names[MERGE]} has the same score on validation documents" if is_tied else ""


def _nearest(comparisons: Mapping[str, Comparison]) -> tuple[str, Comparison]:
    """Return the baseline over which the advantage is the smallest, and the comparison with it."""
    return min(comparisons.items(), key=lambda pair: pair[1].difference.value)


def _lost(table: Standings, split: Split) -> str:
    """Return in which of several objectives parents score better than the winner, in a sentence."""
    models = (row for row in table.rows if row.candidate != BASE)
    *parents, ours = (row for row in models if row.label not in (UNIFORM, MERGE))
    parts = []
    for objective in table.objectives if len(table.objectives) > 1 else ():
        at, sign = (split, objective.key), 1 if objective.higher_is_better else -1
        rows = [row for row in parents if at in row.estimates]
        least = sign * ours.estimates[at].value
        better = [row for row in rows if sign * row.estimates[at].value > least]
        cells = [f"{table.names[r.label]} {table.cell(r, *at)[0]}" for r in (*better, ours)]
        parts += [f"{shown_score(objective.key)} ({', '.join(cells)})"] if better else []
    return f" A parent has a better score in {listed(parts)}." if parts else ""


def _needed(table: Standings, closest: Comparison) -> str:
    """Return why a difference whose interval is above 0 may be no evidence, or nothing."""
    needed = f'"Yes" takes a probability of {1 - level(table.earlier + 1):.6g}'
    if table.earlier:
        which = f"winner {table.earlier + 1} that these test documents measured"
        return f" It is {which}; with each, luck has another chance, so {needed}."
    is_near = closest.sign > 0 and 1 - closest.probability > level(1)
    return f" {needed}, so that later winners can be measured here too." if is_near else ""
