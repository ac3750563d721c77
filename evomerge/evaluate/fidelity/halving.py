"""Successive halving without waiting: only the better ones go on to more documents.

At each rung a candidate's score on the documents so far is ranked among those of the candidates
before it on the same documents; it climbs on while it is in the best 1 / factor of them (Li et al.,
A System for Massively Parallel Hyperparameter Tuning, 2020: asynchronous successive halving).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evomerge.evaluate.fidelity.protocol import Steps
from evomerge.evaluate.fidelity.strata import expectations, sample, stratify
from evomerge.scores import Objective, Scores


@dataclass(frozen=True)
class Halving:
    """How candidates climb.

    Attributes:
        first: documents on the first rung.
        factor: documents grow by it from rung to rung, and the best 1 / factor climb; above 1.
        seed: decides the order of the documents.
        recent: earlier candidates that a candidate is ranked among.
    """

    first: int = 25
    factor: float = 4.0
    seed: int = 0
    recent: int = 20
    whole: bool = False

    def steps(
        self, incumbent: Scores, earlier: Sequence[Scores], objectives: Sequence[Objective]
    ) -> Steps:
        """Ask for the documents of one rung after the other while the candidate climbs."""
        documents = incumbent.documents
        alike = {task: np.ones(len(ids)) for task, ids in documents.items()}
        order = stratify(alike, documents, f"{self.seed}/halving", 1)
        total, count = sum(map(len, documents.values())), self.first
        while True:
            scores = yield sample(order, documents, min(count, total))
            if not self._climbs(scores, earlier, objectives):
                return expectations(order, objectives, scores, incumbent, earlier)
            count = math.ceil(count * self.factor)

    def _climbs(
        self, scores: Scores, earlier: Sequence[Scores], objectives: Sequence[Objective]
    ) -> bool:
        own = _mean_on(scores, scores, objectives)
        others = [_mean_on(other, scores, objectives) for other in earlier]
        reached = [value for value in others if not math.isnan(value)]
        ahead = sum(value > own for value in reached)
        return ahead < math.ceil((len(reached) + 1) / self.factor)


def _mean_on(scores: Scores, rung: Scores, objectives: Sequence[Objective]) -> float:
    """Return the weighted mean on a rung's documents, higher is better; nan if not scored there."""
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
