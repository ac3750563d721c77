"""Asynchronous successive halving: only the better candidates are scored on more documents.

A rung is a sample of the documents, with equally many of each task if the objectives have equal
weights; each rung holds more than the one before. At each rung a
candidate is ranked among earlier candidates by their scores on the same documents, and it goes on
to the next rung if it is in the best 1 / factor of them (Li et al., A System for Massively Parallel
Hyperparameter Tuning, 2020).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evomerge.evaluation.fidelity.protocol import Steps
from evomerge.evaluation.fidelity.strata import expected_scores, sample, stratify
from evomerge.scores import Objective, Scores


@dataclass(frozen=True)
class Halving:
    """The successive-halving policy.

    Attributes:
        first: number of documents on the first rung.
        factor: above 1; each rung has this many times the documents of the one before, and the
            best 1 / factor of the candidates go on to it.
        seed: determines the order of the documents.
        recent: number of earlier candidates that a candidate is ranked among.
        whole: see `Fidelity`.
    """

    first: int = 25
    factor: float = 4.0
    seed: int = 0
    recent: int = 20
    whole: bool = False

    def steps(
        self, incumbent: Scores, earlier: Sequence[Scores], objectives: Sequence[Objective]
    ) -> Steps:
        """Yield the documents of one rung after the other, as long as the candidate goes on."""
        documents = incumbent.documents
        weights = {task: sum(o.weight for o in objectives if o.task == task) for task in documents}
        equal = {task: np.full(len(ids), weights[task] ** 2) for task, ids in documents.items()}
        order = stratify(equal, documents, f"{self.seed}/halving", 1)
        total, count = sum(map(len, documents.values())), self.first
        while True:
            scores = yield sample(order, documents, min(count, total))
            if not self._goes_on(scores, earlier, objectives):
                return expected_scores(order, objectives, scores, incumbent, earlier)
            count = math.ceil(count * self.factor)

    def _goes_on(
        self, scores: Scores, earlier: Sequence[Scores], objectives: Sequence[Objective]
    ) -> bool:
        own = _mean_on(scores, scores, objectives)
        others = [_mean_on(other, scores, objectives) for other in earlier]
        reached = [value for value in others if not math.isnan(value)]
        ahead = sum(value > own for value in reached)
        return ahead < math.ceil((len(reached) + 1) / self.factor)


def _mean_on(scores: Scores, rung: Scores, objectives: Sequence[Objective]) -> float:
    """Return a candidate's weighted mean on a rung's documents; higher is better.

    Args:
        scores: of the candidate.
        rung: any scores on the documents of the rung.

    Returns:
        nan if the candidate was not scored on all of these documents.
    """
    result = 0.0
    for objective in objectives:
        ids = scores.documents.get(objective.task, ())
        known = dict(zip(ids, scores.values.get(objective.key, ()), strict=True))
        wanted = rung.documents[objective.task]
        if any(document not in known for document in wanted):
            return math.nan
        mean = sum(known[document] for document in wanted) / len(wanted)
        result += objective.weight * (mean if objective.higher_is_better else -mean)
    return result
