"""Racing: a candidate is no longer scored once it is unlikely to beat the incumbent.

The candidate is scored on larger and larger random samples of the documents, and compared with the
incumbent document by document. When the probability that it is ahead on all documents falls below
1 - confidence, the remaining ones are skipped. The paired comparison (Birattari et al., F-Race,
2002) removes the difficulty of the documents from the variance. The probability is that of a normal
distribution with a finite-population correction, because only the documents not yet scored are
unknown (racing: Maron and Moore, Hoeffding Races, 1994).

All arrays have one entry for each of the incumbent's documents of a task, in the same order.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from evomerge.errors import ConfigError
from evomerge.evaluation.evaluator import Answers, Evaluator
from evomerge.evaluation.tasks.documents import in_order
from evomerge.evaluation.tasks.info import TasksInfo
from evomerge.evaluation.tasks.objective import Documents
from evomerge.scores import Expected, Objective, Scores, Split, fitness

Floats: TypeAlias = NDArray[np.float64]
Objectives: TypeAlias = Sequence[Objective]
Orders: TypeAlias = Mapping[str, Sequence[int]]
"""Task -> the order in which its documents are taken into samples, as indices."""

_GROWTH = 1.4  # least factor between one sample size and the next
_PRIOR = 2.0  # an expected squared difference counts as much as this many observations


@dataclass(frozen=True)
class Race:
    """Decides on how many documents a candidate is scored; one that may be the best is on all.

    Its decisions depend only on its settings and on scores, so a resumed search repeats them.

    Attributes:
        confidence: a candidate is stopped when it is behind the incumbent with this probability.
        minimum: number of documents that each sample has more than the one before, at least.
        seed: determines, with the earlier candidates, the order of the documents.
        recent: number of earlier candidates by which differences are expected.
    """

    confidence: float = 0.98
    minimum: int = 50
    seed: int = 0
    recent: int = 40

    def orders(
        self, incumbent: Scores, earlier: Sequence[Scores], objectives: Objectives
    ) -> Orders:
        """Return the order in which documents are taken.

        Each generation has an order of its own: with one for the whole search, the incumbent would
        be one that is good on the first documents.
        """
        fitnesses = ",".join(float(fitness(objectives, scores)).hex() for scores in earlier)
        counts = {item.task: len(incumbent.documents[item.task]) for item in objectives}
        key = f"{self.seed}/race/{fitnesses}"
        return {task: in_order(count, f"{key}/{task}") for task, count in counts.items()}

    def sizes(self, total: int) -> list[int]:
        """Sample sizes at which the race is checked; the last is all documents.

        Each sample adds whole ones of the equal parts of at least `minimum` documents, since a
        remainder of a few documents would cost almost as much time as a full batch.
        """
        parts = max(1, total // self.minimum)
        sizes, taken = [], 1
        while taken < parts:
            sizes.append(math.ceil(total * taken / parts))
            taken = math.ceil(taken * _GROWTH)
        return [*sizes, total]


def differences(objectives: Objectives, scores: Scores, incumbent: Scores) -> dict[str, Floats]:
    """Return by how much a candidate is ahead of the incumbent on each document, by task.

    It is nan where the candidate was not scored. The sum over tasks of the means over documents is
    the difference in fitness.
    """
    total = sum(objective.weight for objective in objectives)
    result: dict[str, Floats] = {}
    for objective in objectives:
        task, key = objective.task, objective.key
        every = np.asarray(incumbent.documents[task], dtype=np.intp)
        column = np.full(len(every), np.nan)
        scored = np.asarray(scores.documents.get(task, ()), dtype=np.intp)
        column[np.searchsorted(every, scored)] = scores.values.get(key, ())
        share = objective.weight / total * (1.0 if objective.higher_is_better else -1.0)
        difference = share * (column - np.asarray(incumbent.values[key]))
        result[task] = result[task] + difference if task in result else difference
    return result


def expected_squares(
    objectives: Objectives, incumbent: Scores, earlier: Sequence[Scores]
) -> dict[str, float]:
    """Return the mean expected squared difference from the incumbent, > 0, by task.

    That is the mean over the documents of earlier candidates, shrunk towards the variance of the
    incumbent's own values.
    """
    zeros = replace(incumbent, values={key: (0.0,) * len(v) for key, v in incumbent.values.items()})
    seen = [differences(objectives, scores, incumbent) for scores in earlier]
    result = {}
    for task, column in differences(objectives, zeros, incumbent).items():
        rows = np.array([item[task] for item in seen])
        mean = (np.nansum(rows**2) + column.var()) / (np.isfinite(rows).sum() + 1)
        result[task] = float(mean) + 1e-12
    return result


def sample(documents: Documents, orders: Orders, count: int) -> dict[str, list[int]]:
    """Return the ids of about `count` documents, as large a share of each task.

    A larger sample has all documents of a smaller one.
    """
    total = sum(map(len, orders.values()))
    sizes = {task: -(-len(order) * count // total) for task, order in orders.items()}
    return {t: sorted(documents[t][i] for i in order[: sizes[t]]) for t, order in orders.items()}


def estimate(
    seen: Mapping[str, Floats], orders: Orders, squares: Mapping[str, float]
) -> tuple[float, float]:
    """Return the estimated difference in fitness over all documents, and its variance.

    The variance within a task comes from the documents seen and the expected squared difference
    together, so it is not zero if all answers have been equal so far.
    """
    mean = variance = 0.0
    for task, differences_of in seen.items():
        every = differences_of[orders[task]]
        observed = every[np.isfinite(every)]
        if len(observed):
            mean += float(observed.mean())
        if len(observed) < len(every):
            spread = float(((observed - observed.mean()) ** 2).sum()) if len(observed) else 0.0
            of_one = (spread + _PRIOR * squares[task]) / max(len(observed) + _PRIOR - 1, 1.0)
            variance += of_one * ((1 - len(observed) / len(every)) / max(len(observed), 1))
    return mean, variance


def expected_scores(
    objectives: Objectives,
    scores: Scores,
    incumbent: Scores,
    earlier: Sequence[Scores],
    orders: Orders,
) -> dict[str, Expected]:
    """Return the expected score of each objective on all of the incumbent's documents.

    A candidate is stopped because its estimate is low, maybe by chance, so estimates of stopped
    candidates are too low on average. They are not corrected: empirical Bayes estimates were closer
    to the truth, but searches that were told them found no better merges.
    """
    result = {}
    for objective in objectives:
        alone = [replace(objective, weight=1.0, higher_is_better=True)]
        squares, key = expected_squares(alone, incumbent, earlier), objective.key
        mean, variance = estimate(differences(alone, scores, incumbent), orders, squares)
        result[key] = Expected(incumbent.aggregates[key] + mean, math.sqrt(variance))
    return result


def chance(mean: float, variance: float) -> float:
    """Return the probability that a difference with this mean and variance is above 0."""
    return NormalDist().cdf(mean / math.sqrt(variance or 1e-300))


def score_in_race(
    race: Race,
    evaluator: Evaluator,
    model: Any,
    split: Split,
    incumbent: Scores,
    earlier: Sequence[Scores],
    objectives: Objectives,
) -> Scores:
    """Score a model on larger and larger samples until it is unlikely to be ahead.

    The incumbent is the best candidate so far, with its scores on all documents; `earlier` are the
    scores of the last `recent` candidates, the latest one last. If not all of the incumbent's
    documents were scored, the expected scores on all of them are in `expected`.

    Raises:
        CandidateError: the model cannot be run.
    """
    began, answers, documents = time.perf_counter(), Answers({}), incumbent.documents
    orders = race.orders(incumbent, earlier, objectives)
    squares = expected_squares(objectives, incumbent, earlier)
    for count in race.sizes(sum(map(len, documents.values()))):
        rows, chosen = answers.rows, sample(documents, orders, count)
        new = {t: [i for i in ids if i not in rows.get(t, ())] for t, ids in chosen.items()}
        answers = answers | evaluator.answer(model, split, new)
        scores = answers.scores(evaluator.tasks_of(split), time.perf_counter() - began)
        if scores.fidelity == incumbent.fidelity:
            return scores
        mean, variance = estimate(differences(objectives, scores, incumbent), orders, squares)
        if chance(mean, variance) < 1 - race.confidence:
            break
    expected = expected_scores(objectives, scores, incumbent, earlier, orders)
    return replace(scores, expected=expected)


def check_means(objectives: Sequence[Objective], info: TasksInfo) -> None:
    """Raise a `ConfigError` unless the score of every objective is a mean over documents."""
    for objective in objectives:
        if objective.is_exact or not info.metric(objective.task, objective.metric)[1].is_mean:
            raise ConfigError(
                "`evaluation.racing` compares candidates document by document, but metric "
                f"{objective.metric!r} of {objective.task!r} is not a mean over documents; set "
                "`evaluation.racing.enabled` to false, or name the tasks of a group one by one."
            )
