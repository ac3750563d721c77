"""Racing: a candidate is scored on all documents only if it is likely to beat the incumbent.

The candidate is scored on a small random sample of the documents, and compared with the incumbent
document by document. If it is behind on all documents with the probability `confidence`, the
remaining ones are skipped; else the sample is doubled. Then it goes on to all documents only if it
is ahead with that probability. The paired comparison (Birattari et al., F-Race,
2002) removes the difficulty of the documents from the variance, and regression on the incumbent's
values, which are known on all documents, removes more of it (Cochran, Sampling Techniques, 1977,
chapter 7). The probability is that of a normal distribution with a finite-population correction,
because only the documents not yet scored are unknown (racing: Maron and Moore, Hoeffding Races,
1994).
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from evomerge.evaluation.evaluator import Answers, Evaluator
from evomerge.evaluation.tasks.documents import in_order
from evomerge.evaluation.tasks.objective import Documents
from evomerge.scores import Expected, Objective, Scores, Split, fitness, fitness_error

Floats: TypeAlias = NDArray[np.float64]

_FIRST = 8  # one of so many documents is in the first sample
_PRIOR = 2.0  # the variance of the incumbent's values counts as much as this many observations


@dataclass(frozen=True)
class Race:
    """Decides on how many documents a candidate is scored.

    Its decisions depend only on its settings and on scores, so a resumed search repeats them.

    Attributes:
        confidence: a candidate is stopped when it is behind the incumbent with this probability,
            and scored on all documents when it is ahead with it.
        minimum: number of documents of the first sample, at least.
        seed: determines, with the number of outcomes that are known, the order of the documents.
    """

    confidence: float = 0.8
    minimum: int = 25
    seed: int = 0

    def sizes(self, total: int) -> list[int]:
        """Sample sizes at which the race is checked: an eighth, a quarter, all documents.

        They are few since each sample has batches of its own, and starting a batch costs as much
        as ten or more texts. The second is left out if it would be most of the documents.
        """
        first = min(max(self.minimum, math.ceil(total / _FIRST)), total)
        return sorted({first, 2 * first if 4 * first <= total else total, total})

    def samples(self, documents: Documents, known: int) -> list[dict[str, list[int]]]:
        """Return the ids of the documents of each sample, as large a share of each task.

        A larger sample has all documents of a smaller one. `known` is the number of outcomes that
        were known when the candidate was proposed. So candidates of one generation have the same
        samples, and those of the next one others: with one order for the whole search, the
        incumbent would be one that is good on the first documents.
        """
        key = f"{self.seed}/race/{known}"
        orders = {task: in_order(len(ids), f"{key}/{task}") for task, ids in documents.items()}
        total = sum(map(len, documents.values()))
        return [
            {
                t: sorted(documents[t][i] for i in order[: -(-len(order) * size // total)])
                for t, order in orders.items()
            }
            for size in self.sizes(total)
        ]


def expected(values: Floats, places: Sequence[int], incumbent: Floats) -> Expected:
    """Return the expected mean of a candidate over all documents, from those that were scored.

    Args:
        values: those of the candidate, shape (n,), 0 < n <= N.
        places: the places of its documents among the incumbent's.
        incumbent: the incumbent's values, shape (N,).

    The variance comes from the values and that of the incumbent together, so it is not zero if both
    have been equal so far. A candidate is stopped because its estimate is low, maybe by chance, so
    estimates of stopped candidates are too low on average. They are not corrected: empirical Bayes
    estimates were closer to the truth, but searches that were told them found no better merges.
    """
    count, total, variance = len(values), len(incumbent), float(incumbent.var())
    ahead = values - incumbent[places]
    away = incumbent[places] - incumbent.mean()
    offset = float(away.mean())  # 0 on all documents
    away = away - offset
    inertia = float(away @ away) + _PRIOR * (variance or 1.0)
    slope = float(away @ ahead) / inertia
    mean = float(incumbent.mean()) + float(ahead.mean()) - slope * offset
    spread = float(((ahead - ahead.mean() - slope * away) ** 2).sum())
    of_one = (spread + _PRIOR * (variance or 1e-12)) / max(count + _PRIOR - 2, 1.0)
    return Expected(mean, math.sqrt(of_one * (1 / count - 1 / total + offset**2 / inertia)))


def expected_scores(
    objectives: Sequence[Objective], scores: Scores, incumbent: Scores
) -> dict[str, Expected]:
    """Return the expected score of each objective on all of the incumbent's documents."""
    return {
        item.key: expected(
            np.asarray(scores.values[item.key]),
            np.searchsorted(incumbent.documents[item.task], scores.documents[item.task]).tolist(),
            np.asarray(incumbent.values[item.key]),
        )
        for item in objectives
    }


def chance(objectives: Sequence[Objective], scores: Scores, incumbent: Scores) -> float:
    """Return the probability that expected scores are above the incumbent's."""
    ahead = fitness(objectives, scores) - fitness(objectives, incumbent)
    return NormalDist().cdf(ahead / (fitness_error(objectives, scores) or 1e-150))


def score_in_race(
    race: Race,
    evaluator: Evaluator,
    model: Any,
    split: Split,
    incumbent: Scores,
    known: int,
    objectives: Sequence[Objective],
) -> Scores:
    """Score a model on larger and larger samples; on all documents if it is likely to be ahead.

    The incumbent is the best candidate so far, with its scores on all documents; `known`: see
    `Race.samples`. If not all of the incumbent's documents were scored, the expected scores on all
    of them are in `expected`.

    Raises:
        CandidateError: the model cannot be run.
    """
    began, answers = time.perf_counter(), Answers({})
    samples = race.samples(incumbent.documents, known)
    for chosen in samples:
        rows = answers.rows
        new = {t: [i for i in ids if i not in rows.get(t, ())] for t, ids in chosen.items()}
        answers = answers | evaluator.answer(model, split, new)
        scores = answers.scores(evaluator.tasks_of(split), time.perf_counter() - began)
        if scores.fidelity == incumbent.fidelity:
            break
        scores = replace(scores, expected=expected_scores(objectives, scores, incumbent))
        needed = race.confidence if chosen is samples[-2] else 1 - race.confidence
        if chance(objectives, scores, incumbent) < needed:
            break
    return scores
