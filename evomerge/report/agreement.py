"""Which documents only the merge answers rightly, and which only a parent does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evomerge.run.history import Candidate, History
from evomerge.scores import SPLITS, Objective, Split
from evomerge.space.baselines import AVERAGES


@dataclass(frozen=True)
class Agreement:
    """How the right answers of the searched merge and of the parents overlap on one metric.

    Attributes:
        key: `task/metric`, whose values are 0 (wrong) or 1 (right).
        both: number of documents that the merge and a parent answer rightly.
        only_merge: number that the merge alone answers rightly.
        only_parents: number that a parent answers rightly, but not the merge.
        nobody: number that none of them answers rightly.
        gained: ids of the documents of `only_merge`.
        lost: ids of the documents of `only_parents`.
    """

    key: str
    both: int
    only_merge: int
    only_parents: int
    nobody: int
    gained: tuple[int, ...]
    lost: tuple[int, ...]


def agreements(
    history: History, best: Candidate | None, objectives: Sequence[Objective]
) -> tuple[Split | None, list[Agreement]]:
    """Return the last split on which the merge and a parent were scored, and their agreement.

    Metrics with other values than 0 and 1 are left out, and so are averages of the parents.
    """
    if best is None or best.label is not None:
        return None, []
    parents = [item for item in history.baselines if item.label not in AVERAGES]
    for split in reversed(SPLITS):
        own = best.scores(split)
        others = [scores for item in parents if (scores := item.scores(split)) is not None]
        if own is None or not others:
            continue
        found = []
        for item in objectives:
            values = [scores.values.get(item.key, ()) for scores in (own, *others)]
            ids = own.documents.get(item.task, ())
            same = all(scores.documents.get(item.task) == ids for scores in others)
            if same and all(len(v) == len(ids) and set(v) <= {0.0, 1.0} for v in values):
                found.append(_agreement(item, ids, values))
        return split, [item for item in found if item is not None]
    return None, []


def _agreement(
    objective: Objective, ids: Sequence[int], values: Sequence[Sequence[float]]
) -> Agreement:
    right = 1.0 if objective.higher_is_better else 0.0
    merge = [value == right for value in values[0]]
    parents = [any(value == right for value in column) for column in zip(*values[1:], strict=True)]
    pairs = list(zip(ids, merge, parents, strict=True))
    gained = tuple(number for number, own, other in pairs if own and not other)
    lost = tuple(number for number, own, other in pairs if other and not own)
    both = sum(own and other for _, own, other in pairs)
    nobody = len(pairs) - both - len(gained) - len(lost)
    return Agreement(objective.key, both, len(gained), len(lost), nobody, gained, lost)
