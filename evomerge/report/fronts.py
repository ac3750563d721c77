"""Comparing the members of a front with each other and with the parents, by objective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from evomerge.report.beating import Duel, duel, rejected
from evomerge.report.confidence import Comparison, compare
from evomerge.report.words import listed
from evomerge.run.history import Candidate, History
from evomerge.scores import Constraint, Failure, Objective, Split
from evomerge.searching.ranking import Ranking
from evomerge.space.baselines import UNIFORM


@dataclass(frozen=True)
class Neighbours:
    """Two members of a front that follow each other by the first objective, the better one first.

    `by_objective`: `task/metric` -> comparison. A difference above 0 says that the first is better,
    also where lower values are better.
    """

    first: str
    second: str
    by_objective: Mapping[str, Comparison]

    @property
    def are_apart(self) -> bool:
        """Whether each is better than the other in some objective, beyond doubt."""
        signs = {item.sign for item in self.by_objective.values()}
        return 1 in signs and -1 in signs


@dataclass(frozen=True)
class FrontComparison:
    """How the members of a front differ; all are named by their labels.

    Attributes:
        members: those with scores, by the first objective, the best one first.
        neighbours: each of them with the next one.
        duels: merge -> parent -> the merge against the parent; nothing for those that cannot win,
            which count among the merges.
        parents: the parents that merges are compared with; `missing`: another one -> why not.
        excluded: merge that is compared with no parent -> why.
        broken: another merge that cannot win -> the constraints that it breaks.
    """

    members: Sequence[str]
    neighbours: Sequence[Neighbours]
    duels: Mapping[str, Mapping[str, Duel]]
    parents: Sequence[str]
    missing: Mapping[str, str]
    excluded: Mapping[str, str]
    broken: Mapping[str, str]

    @property
    def others(self) -> dict[str, str]:
        """Label of a merge that cannot win -> why, in words."""
        return {**self.excluded, **self.broken}

    @cached_property
    def p_values(self) -> dict[str, float]:
        """Label of a merge -> p-value of "does not beat every parent that is compared"."""
        return {
            merge: max((item.p for item in duels.values()), default=1.0)
            for merge, duels in self.duels.items()
        }

    @property
    def winners(self) -> list[str]:
        """Labels of the merges that beat every parent that is compared; see `beating`."""
        found = rejected(self.p_values)
        return [merge for merge in self.duels if merge in found]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "members": list(self.members),
            "neighbours": [
                {
                    "first": item.first,
                    "second": item.second,
                    "apart": item.are_apart,
                    "differences": {k: c.to_dict() for k, c in item.by_objective.items()},
                }
                for item in self.neighbours
            ],
            "winners": self.winners,
            "p_values": self.p_values,
            "missing": dict(self.missing),
            "excluded": dict(self.excluded),
            "broken": dict(self.broken),
        }


def compare_front(
    objectives: Sequence[Objective],
    front: Sequence[Candidate],
    baselines: Sequence[Candidate],
    split: Split,
    labels: Mapping[int, str],
    constraints: Sequence[Constraint] = (),
) -> FrontComparison:
    """Compare the members of a front on the documents of a split.

    Merges without scores there, or that break a constraint there, are compared with no parent.
    `labels`: number of a candidate -> its label.
    """
    scores = {item.number: item.scores(split) for item in (*front, *baselines)}
    known = {number: found for number, found in scores.items() if found is not None}
    members = [item for item in front if item.number in known]
    members.sort(key=lambda item: -objectives[0].value(known[item.number]))
    failed = [item for item in front if item.number not in known]
    merges = {labels[item.number]: item for item in (*members, *failed) if item.label is None}
    parents = {labels[item.number]: item for item in baselines if item.label != UNIFORM}

    found: dict[str, dict[str, Duel]] = {}
    for merge, item in merges.items():
        pairs = {
            parent: duel(objectives, known[item.number], known[other.number])
            for parent, other in parents.items()
            if item.number in known and other.number in known
        }
        found[merge] = {parent: one for parent, one in pairs.items() if one is not None}
    # A merge that cannot be compared hides no parent that another merge is compared with.
    has_scores = any(item.label is None for item in members)
    compared = [
        parent
        for parent, item in parents.items()
        if any(parent in duels for duels in found.values())
        or (item.number in known and not has_scores)
    ]
    excluded, broken = {}, {}
    for merge, item in merges.items():
        if len(found[merge]) < len(compared):
            excluded[merge] = why_not_compared(item, split)
        elif words := broken_words(constraints, item, split):
            broken[merge] = f"breaks on the {split} documents: {words}"

    def neighbours(first: Candidate, second: Candidate) -> Neighbours:
        ours, theirs = known[first.number], known[second.number]
        all_pairs = {item.key: compare([item], ours, theirs) for item in objectives}
        pairs = {key: item for key, item in all_pairs.items() if item is not None}
        return Neighbours(labels[first.number], labels[second.number], pairs)

    others = {**excluded, **broken}
    return FrontComparison(
        [labels[item.number] for item in members],
        [neighbours(*pair) for pair in pairwise(members)],
        {merge: {} if merge in others else duels for merge, duels in found.items()},
        compared,
        {p: why_not_compared(item, split) for p, item in parents.items() if p not in compared},
        excluded,
        broken,
    )


def fallen(history: History, ranking: Ranking) -> str | None:
    """Return a sentence about leaders on search documents that validation took from the front.

    None: there is no final front yet, or all its finalists stayed on it.
    """
    if not history.front:
        return None
    led = [
        item
        for item in ranking.incumbents(history.candidates)
        if item.label is None and "validation" in item.outcomes
    ]
    lost = [str(item.number) for item in led if item not in history.front]
    if not lost:
        return None
    who, are = ("candidate", "it is") if len(lost) == 1 else ("candidates", "they are")
    return (
        f"Of {len(led)} merges on the front of the search documents that were scored again, "
        f"{who} {listed(lost)} fell: {are} not on the front of the validation documents."
    )


def why_not_compared(candidate: Candidate, split: Split) -> str:
    """Return why a candidate cannot be compared on a split, as the end of a sentence."""
    outcome = candidate.outcomes.get(split)
    if outcome is None:
        return f"was not scored on the {split} documents"
    if isinstance(outcome, Failure):
        reason = f"{outcome.stage}: {outcome.reason}".rstrip(".")
        return f"has no scores on the {split} documents ({reason})"
    return "cannot be compared, since a score is not the mean of the same documents"


def broken_words(constraints: Sequence[Constraint], candidate: Candidate, split: Split) -> str:
    """Return the constraints that a candidate breaks on a split, with its values; or nothing."""
    scores = candidate.scores(split)
    if scores is None:
        return ""
    broken = (item for item in constraints if item.violation(scores))
    return ", ".join(f"{item.text} ({scores.aggregates[item.key]:.4g})" for item in broken)


def missing_words(missing: Mapping[str, str], names: Mapping[str, str]) -> str:
    """Return who is not compared, and why, as the part of a sentence."""
    return "; ".join(f"{names[label]} {why}" for label, why in missing.items())
