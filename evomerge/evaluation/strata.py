"""Stratified samples of documents, and estimates of a candidate's lead over the incumbent.

Late in a search, every candidate answers most documents exactly as the incumbent does. A few of
these documents are enough; candidates differ in the others. So the documents of a task are sorted
by the mean squared difference between earlier candidates and the incumbent, and divided into strata
of equal sums of its square root (the cumulative root rule of Dalenius and Hodges, 1959). A sample
takes about equally many documents from each stratum (close to Neyman's allocation, 1934), in random
order. The estimate over all documents weights every stratum by its share of its task's documents,
so it is unbiased and only its variance is smaller (Cochran, Sampling Techniques, 1977, chapters 5
and 5A). This needs an order in which no earlier candidate was sampled, since the strata are made
from the answers of earlier candidates.

All arrays have one entry for each of the incumbent's documents of a task, in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from evomerge.evaluation.tasks.documents import in_order
from evomerge.scores import Expected, Objective, Scores

Floats: TypeAlias = NDArray[np.float64]
Differences: TypeAlias = Mapping[str, Floats]
"""Task -> (documents,) signed difference from the incumbent, nan where there is none."""

_PRIOR = 2.0  # an expected squared difference counts as much as this many observations


@dataclass(frozen=True)
class Stratum:
    """Documents of a task with similar expected squared differences from the incumbent.

    Attributes:
        indices: the indices of the documents among the incumbent's, in the order of samples.
        expected_square: mean expected squared difference, > 0, with the weights of the objectives.
        share: the stratum's share of the task's documents.
    """

    task: str
    indices: NDArray[np.intp]
    expected_square: float
    share: float

    @property
    def weight(self) -> float:
        """Share x expected absolute difference, by which samples are allocated."""
        return self.share * math.sqrt(self.expected_square)


def differences(
    objectives: Sequence[Objective], scores: Scores, incumbent: Scores
) -> dict[str, Floats]:
    """Return by how much a candidate is ahead of the incumbent on each document, by task.

    The sum over tasks of the means over documents is the difference in fitness.
    """
    total = sum(objective.weight for objective in objectives)
    result: dict[str, Floats] = {}
    for objective in objectives:
        task, key = objective.task, objective.key
        known = np.asarray(incumbent.documents[task], dtype=np.intp)
        column = np.full(len(known), np.nan)
        own = np.asarray(scores.documents.get(task, ()), dtype=np.intp)
        indices = np.minimum(np.searchsorted(known, own), len(known) - 1)
        shared = known[indices] == own
        column[indices[shared]] = np.asarray(scores.values.get(key, ()), dtype=float)[shared]
        share = objective.weight / total * (1.0 if objective.higher_is_better else -1.0)
        difference = share * (column - np.asarray(incumbent.values[key]))
        result[task] = result[task] + difference if task in result else difference
    return result


def expected_squares(
    objectives: Sequence[Objective], incumbent: Scores, earlier: Sequence[Scores]
) -> dict[str, Floats]:
    """Return the expected squared difference from the incumbent on each document, > 0, by task.

    This is the mean over earlier candidates, shrunk towards the mean over the task's documents,
    which is shrunk towards the variance of the incumbent's own values.
    """
    zeros = replace(incumbent, values={key: (0.0,) * len(v) for key, v in incumbent.values.items()})
    seen = [differences(objectives, scores, incumbent) for scores in earlier]
    result = {}
    for task, own in differences(objectives, zeros, incumbent).items():
        rows = np.array([item[task] for item in seen]).reshape(len(seen), len(own))
        counts = np.isfinite(rows).sum(axis=0)
        squares = np.nansum(rows**2, axis=0)
        usual = (squares.sum() + own.var()) / (counts.sum() + 1) + 1e-12
        result[task] = (squares + _PRIOR * usual) / (counts + _PRIOR)
    return result


def stratify(
    squares: Mapping[str, Floats], documents: Mapping[str, Sequence[int]], key: str, count: int
) -> list[Stratum]:
    """Divide the documents of every task into up to `count` strata of equal weight.

    Args:
        squares: task -> (documents,) expected squared differences.
        key: determines the random order of the documents within the strata.
    """
    result = []
    for task, values in squares.items():
        rank = np.argsort(in_order(len(documents[task]), f"{key}/{task}"))
        # Ties are broken by a second random order. By the rank itself, a stratum boundary among
        # equal values would put the documents of low rank into the lower stratum.
        tie_break = in_order(len(documents[task]), f"{key}/{task}/equals")
        ascending = np.lexsort((np.argsort(tie_break), values))
        reached = np.cumsum(np.sqrt(values[ascending]))
        label = np.minimum(count * (1 - 1e-12) * reached / reached[-1], count - 1).astype(int)
        for number in np.unique(label):
            members = ascending[label == number]
            members = members[np.argsort(rank[members])]
            share = len(members) / len(values)
            result.append(Stratum(task, members, float(values[members].mean()), share))
    return result


def allocate(strata: Sequence[Stratum], count: int) -> list[int]:
    """Return how many documents of each stratum are in a sample of about `count` documents.

    The numbers are proportional to the weights, up to the sizes, and rounded up. With a larger
    `count` none of them is smaller.
    """
    sizes = np.array([len(stratum.indices) for stratum in strata])
    weights = np.array([stratum.weight for stratum in strata])
    if count >= sizes.sum():
        return [int(size) for size in sizes]
    whole = np.zeros(len(strata), dtype=bool)  # strata that are taken whole
    while True:
        rate = (count - sizes[whole].sum()) / weights[~whole].sum()
        more = ~whole & (rate * weights >= sizes)
        if not more.any():
            break
        whole |= more
    taken = np.where(whole, sizes, np.minimum(sizes, np.ceil(rate * weights - 1e-9)))
    return [int(number) for number in taken]


def sample(
    strata: Sequence[Stratum], documents: Mapping[str, Sequence[int]], count: int
) -> dict[str, list[int]]:
    """Return the ids of about `count` documents by task; a larger sample has all of a smaller."""
    result: dict[str, list[int]] = {stratum.task: [] for stratum in strata}
    for stratum, number in zip(strata, allocate(strata, count), strict=True):
        ids = documents[stratum.task]
        result[stratum.task] += [ids[index] for index in stratum.indices[:number]]
    return {task: sorted(ids) for task, ids in result.items()}


def estimate(strata: Sequence[Stratum], seen: Differences) -> tuple[float, float]:
    """Return the estimated difference in fitness over all documents, and its variance.

    The variance within a stratum comes from the documents seen and the expected squared difference
    together, so it is not zero if all answers have been equal so far.
    """
    mean = variance = 0.0
    for stratum in strata:
        every = seen[stratum.task][stratum.indices]
        known = every[np.isfinite(every)]
        if len(known):
            mean += stratum.share * float(known.mean())
        if len(known) < len(every):
            squares = float(((known - known.mean()) ** 2).sum()) if len(known) else 0.0
            prior = _PRIOR * stratum.expected_square
            of_one = (squares + prior) / max(len(known) + _PRIOR - 1, 1.0)
            unknown = (1 - len(known) / len(every)) / max(len(known), 1)
            variance += stratum.share**2 * of_one * unknown
    return mean, variance


def expected_scores(
    strata: Sequence[Stratum],
    objectives: Sequence[Objective],
    scores: Scores,
    incumbent: Scores,
    earlier: Sequence[Scores],
) -> dict[str, Expected]:
    """Return the expected score of each objective on all of the incumbent's documents.

    A candidate is stopped because its estimate is low, maybe by chance, so estimates of stopped
    candidates are too low on average. They are not corrected: empirical Bayes estimates were closer
    to the truth, but searches that were told them found no better merges.

    Args:
        strata: the strata that the sample was taken from.
        scores: the candidate's scores on the sample.
    """
    result = {}
    for objective in objectives:
        alone = [replace(objective, weight=1.0, higher_is_better=True)]
        squares = expected_squares(alone, incumbent, earlier)[objective.task]
        own = [
            replace(stratum, expected_square=float(squares[stratum.indices].mean()))
            for stratum in strata
            if stratum.task == objective.task
        ]
        mean, variance = estimate(own, differences(alone, scores, incumbent))
        result[objective.key] = Expected(
            incumbent.aggregates[objective.key] + mean, math.sqrt(variance)
        )
    return result
