"""Comparing the members of a front with each other and with the parents, by objective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from evomerge.report.confidence import Comparison, compare
from evomerge.run.history import Candidate
from evomerge.scores import Objective, Split
from evomerge.space.baselines import UNIFORM


@dataclass(frozen=True)
class Neighbours:
    """Two members of a front that follow each other by the first objective.

    Attributes:
        first: label of the member that is better in the first objective.
        second: label of the other one.
        by_objective: `task/metric` -> comparison of the first with the second. A difference above
            0 says that the first is better, also where lower values are better.
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
    """How the members of a front differ.

    Attributes:
        members: labels of the members, by the first objective, the best one first.
        neighbours: each member with the next one.
        beaten: label of a merge on the front -> labels of the parents that it beats: it is better
            in some objective beyond doubt, and worse in none beyond doubt.
        parents: labels of all parents.
    """

    members: Sequence[str]
    neighbours: Sequence[Neighbours]
    beaten: Mapping[str, Sequence[str]]
    parents: Sequence[str]

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
            "beaten": {label: list(parents) for label, parents in self.beaten.items()},
        }


def compare_front(
    objectives: Sequence[Objective],
    front: Sequence[Candidate],
    baselines: Sequence[Candidate],
    split: Split,
    labels: Mapping[int, str],
) -> FrontComparison:
    """Compare the members of a front on the documents of a split.

    Args:
        objectives: the objectives.
        front: the members.
        baselines: the parents and the uniform merge.
        split: a split on which all members have scores.
        labels: number of a candidate -> its label.
    """
    members = sorted(front, key=lambda item: -_value(objectives[0], item, split))
    pairs = pairwise(members)
    parents = [item for item in baselines if item.label != UNIFORM and item.scores(split)]
    beaten = {
        labels[member.number]: [
            labels[parent.number]
            for parent in parents
            if _beats(_compare(objectives, member, parent, split))
        ]
        for member in members
        if member.label is None
    }
    return FrontComparison(
        [labels[item.number] for item in members],
        [
            Neighbours(labels[a.number], labels[b.number], _compare(objectives, a, b, split))
            for a, b in pairs
        ],
        beaten,
        [labels[item.number] for item in parents],
    )


def _value(objective: Objective, candidate: Candidate, split: Split) -> float:
    scores = candidate.scores(split)
    return objective.value(scores) if scores else float("-inf")


def _compare(
    objectives: Sequence[Objective], first: Candidate, second: Candidate, split: Split
) -> dict[str, Comparison]:
    """Return the comparison in each objective that can be compared document by document."""
    ours, theirs = first.scores(split), second.scores(split)
    if ours is None or theirs is None:
        return {}
    found = {item.key: compare([item], ours, theirs) for item in objectives}
    return {key: item for key, item in found.items() if item is not None}


def _beats(by_objective: Mapping[str, Comparison]) -> bool:
    signs = [item.sign for item in by_objective.values()]
    return 1 in signs and -1 not in signs
