"""Which documents tell a candidate from the incumbent, and what a stratified sample of them says.

Late in a search most documents are settled: every candidate answers them as the incumbent does.
Their share is known, so asking a few of them is enough; what there is to learn lies in the others.
Documents are sorted by their unrest, the mean squared difference between earlier candidates and
the incumbent, and cut into strata by equal shares of its square root (the cumulative root rule of
Dalenius and Hodges, 1959); a sample then takes equally many of each (Neyman, 1934, nearly), in a
random order. The estimate over all documents weighs every stratum by its size, so that it is as
unbiased as a plain sample's; only its variance is smaller (Cochran, Sampling Techniques, 1977,
chapters 5 and 5A).

All arrays are aligned to the incumbent's documents of a task.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from evomerge.evaluate.tasks.documents import in_order
from evomerge.scores import Expected, Objective, Scores

Floats: TypeAlias = NDArray[np.float64]
Gaps: TypeAlias = Mapping[str, Floats]
"""Task -> signed difference from the incumbent by document, nan where there is none."""

_PSEUDO = 2.0  # documents that an expectation of unrest is worth beside what was seen


@dataclass(frozen=True)
class Stratum:
    """Documents of like unrest.

    Attributes:
        task: the task they belong to.
        places: their places among the incumbent's documents, in the order in which they are asked.
        unrest: mean squared difference from the incumbent to be expected of one of them, > 0.
    """

    task: str
    places: NDArray[np.intp]
    unrest: float

    @property
    def mass(self) -> float:
        """The share of a sample that it deserves, up to a factor."""
        return len(self.places) * math.sqrt(self.unrest)


def gaps(objectives: Sequence[Objective], scores: Scores, incumbent: Scores) -> dict[str, Floats]:
    """Return by how much a candidate is ahead of the incumbent, document by document.

    The sum over tasks of the means over documents is the difference in fitness.
    """
    total = sum(objective.weight for objective in objectives)
    result: dict[str, Floats] = {}
    for objective in objectives:
        task, key = objective.task, objective.key
        known = np.asarray(incumbent.documents[task], dtype=np.intp)
        column = np.full(len(known), np.nan)
        own = np.asarray(scores.documents.get(task, ()), dtype=np.intp)
        places = np.minimum(np.searchsorted(known, own), len(known) - 1)
        shared = known[places] == own
        column[places[shared]] = np.asarray(scores.values.get(key, ()), dtype=float)[shared]
        share = objective.weight / total * (1.0 if objective.higher_is_better else -1.0)
        gap = share * (column - np.asarray(incumbent.values[key]))
        result[task] = result[task] + gap if task in result else gap
    return result


def unrest(
    objectives: Sequence[Objective], incumbent: Scores, earlier: Sequence[Scores]
) -> dict[str, Floats]:
    """Return the squared difference from the incumbent to be expected of every document, > 0.

    Where little was seen of a document it counts as the mean of its task, and where little was
    seen at all, as two of the incumbent's own answers differ.
    """
    nobody = replace(
        incumbent, values={key: (0.0,) * len(v) for key, v in incumbent.values.items()}
    )
    seen = [gaps(objectives, scores, incumbent) for scores in earlier]
    result = {}
    for task, own in gaps(objectives, nobody, incumbent).items():
        rows = np.array([gap[task] for gap in seen]).reshape(len(seen), len(own))
        counts = np.isfinite(rows).sum(axis=0)
        squares = np.nansum(rows**2, axis=0)
        usual = (squares.sum() + own.var()) / (counts.sum() + 1) + 1e-12
        result[task] = (squares + _PSEUDO * usual) / (counts + _PSEUDO)
    return result


def stratify(
    expected: Mapping[str, Floats], documents: Mapping[str, Sequence[int]], key: str, count: int
) -> list[Stratum]:
    """Cut the documents of every task into up to `count` strata of equal mass.

    Args:
        expected: the documents' unrest.
        documents: their ids.
        key: decides the random order inside of the strata.
    """
    result = []
    for task, values in expected.items():
        rank = np.argsort(in_order(len(documents[task]), f"{key}/{task}"))
        # equals are sorted by another order: by rank, a stratum's would come after the others
        among_equals = in_order(len(documents[task]), f"{key}/{task}/equals")
        risen = np.lexsort((np.argsort(among_equals), values))
        reached = np.cumsum(np.sqrt(values[risen]))
        label = np.minimum(count * (1 - 1e-12) * reached / reached[-1], count - 1).astype(int)
        for number in np.unique(label):
            members = risen[label == number]
            members = members[np.argsort(rank[members])]
            result.append(Stratum(task, members, float(values[members].mean())))
    return result


def allocate(strata: Sequence[Stratum], count: int) -> list[int]:
    """Return how many documents of every stratum a sample of about `count` takes, by mass.

    Rounded up; a larger sample takes no fewer of any.
    """
    sizes = np.array([len(stratum.places) for stratum in strata])
    masses = np.array([stratum.mass for stratum in strata])
    if count >= sizes.sum():
        return [int(size) for size in sizes]
    whole = np.zeros(len(strata), dtype=bool)  # strata that are taken whole
    while True:
        rate = (count - sizes[whole].sum()) / masses[~whole].sum()
        more = ~whole & (rate * masses >= sizes)
        if not more.any():
            break
        whole |= more
    taken = np.where(whole, sizes, np.minimum(sizes, np.ceil(rate * masses - 1e-9)))
    return [int(number) for number in taken]


def sample(
    strata: Sequence[Stratum], documents: Mapping[str, Sequence[int]], count: int
) -> dict[str, list[int]]:
    """Return the ids of about `count` documents, by task; larger samples hold the smaller ones."""
    result: dict[str, list[int]] = {stratum.task: [] for stratum in strata}
    for stratum, number in zip(strata, allocate(strata, count), strict=True):
        ids = documents[stratum.task]
        result[stratum.task] += [ids[place] for place in stratum.places[:number]]
    return {task: sorted(ids) for task, ids in result.items()}


def difference(strata: Sequence[Stratum], gap: Gaps) -> tuple[float, float]:
    """Return the estimated difference in fitness over all documents, and its variance.

    The variance within a stratum is that of what was seen together with the unrest that was
    expected: where all answers were alike so far, the next ones need not be.
    """
    sizes: dict[str, int] = {}
    for stratum in strata:
        sizes[stratum.task] = sizes.get(stratum.task, 0) + len(stratum.places)
    mean = spread = 0.0
    for stratum in strata:
        every = gap[stratum.task][stratum.places]
        seen = every[np.isfinite(every)]
        share = len(every) / sizes[stratum.task]
        if len(seen):
            mean += share * float(seen.mean())
        if len(seen) < len(every):
            apart = float(((seen - seen.mean()) ** 2).sum()) if len(seen) else 0.0
            prior = _PSEUDO * stratum.unrest
            of_one = (apart + prior) / max(len(seen) + _PSEUDO - 1, 1.0)
            unknown = (1 - len(seen) / len(every)) / max(len(seen), 1)
            spread += share**2 * of_one * unknown
    return mean, spread


def expectations(
    strata: Sequence[Stratum],
    objectives: Sequence[Objective],
    scores: Scores,
    incumbent: Scores,
    earlier: Sequence[Scores],
) -> dict[str, Expected]:
    """Return what every objective's score on all of the incumbent's documents is expected to be."""
    result = {}
    for objective in objectives:
        alone = [replace(objective, weight=1.0, higher_is_better=True)]
        calm = unrest(alone, incumbent, earlier)[objective.task]
        own = [
            replace(stratum, unrest=float(calm[stratum.places].mean()))
            for stratum in strata
            if stratum.task == objective.task
        ]
        mean, spread = difference(own, gaps(alone, scores, incumbent))
        result[objective.key] = Expected(
            incumbent.aggregates[objective.key] + mean, math.sqrt(spread)
        )
    return result
