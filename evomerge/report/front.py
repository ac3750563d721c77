"""The standings of a search for a front: its merges beside the parents."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from evomerge.errors import listed
from evomerge.report.confidence import compare
from evomerge.report.standings import Differences, ScoreTable, Standings, Verdict, why_not_compared
from evomerge.run.history import Candidate, History
from evomerge.run.ranking import Ranking, front_of
from evomerge.scores import SPLITS, Objective, Split
from evomerge.space.baselines import UNIFORM
from evomerge.words import short_scores


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
            label(candidate): why_not_compared(candidate, split)
            for candidate in (*parents, *merges)
            if candidate.scores(split) is None
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
