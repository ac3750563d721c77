"""The merges on a front against the parents: by how much each is better and worse, by objective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from evomerge.report.confidence import Comparison, compare
from evomerge.report.words import listed
from evomerge.run.history import Candidate, History
from evomerge.scores import Constraint, Failure, Objective, Split
from evomerge.searching.ranking import Ranking
from evomerge.space.baselines import UNIFORM

Differences: TypeAlias = Mapping[str, Comparison]
"""`task/metric` -> a merge compared with a parent; without what has no error that is known."""


def against_parents(
    objectives: Sequence[Objective],
    front: Sequence[Candidate],
    baselines: Sequence[Candidate],
    split: Split,
    labels: Mapping[int, str],
) -> dict[str, dict[str, Differences]]:
    """Return merge -> parent -> how they differ on a split, without parents that have no scores.

    `labels`: number of a candidate -> its label.
    """
    parents = [item for item in baselines if item.label != UNIFORM]

    def differences(merge: Candidate, parent: Candidate) -> Differences:
        ours, theirs = merge.scores(split), parent.scores(split)
        if ours is None or theirs is None:
            return {}
        found = {item.key: compare([item], ours, theirs) for item in objectives}
        return {key: item for key, item in found.items() if item is not None}

    return {
        labels[merge.number]: {
            labels[parent.number]: found
            for parent in parents
            if (found := differences(merge, parent))
        }
        for merge in front
        if merge.label is None
    }


def in_words(found: Differences, names: Mapping[str, str]) -> str:
    """Return how a merge differs: `better in acc (+3.0 points [1.0, 5.1]), worse in tokens (...)`.

    `names`: `task/metric` -> what people read. Better and worse are beyond doubt: their 95 %
    intervals do not contain 0.
    """
    said = {1: "better in", -1: "worse in", 0: "perhaps the same in"}
    parts = []
    for sign, words in said.items():
        texts = [f"{names[k]} ({it.amount})" for k, it in found.items() if it.sign == sign]
        if texts:
            parts.append(f"{words} {listed(texts)}")
    return ", ".join(parts)


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
