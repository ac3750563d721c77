"""Successive halving without waiting: only the better half goes on to twice as many documents.

At each rung a candidate's score on the documents so far is ranked among those of all candidates
before it on the same documents; it climbs on while it is in the best 1 / eta of them (Li et al.,
A System for Massively Parallel Hyperparameter Tuning, 2020: asynchronous successive halving).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evomerge.evaluate.evaluator import Answers, Evaluator
from evomerge.evaluate.subsets import in_order
from evomerge.scores import Objective, Scores, Split


@dataclass(frozen=True)
class Halving:
    """How candidates climb.

    Attributes:
        first: documents on the first rung.
        eta: factor from rung to rung, and the share that climbs is 1 / eta; above 1.
        seed: seed of the order of the documents.
    """

    first: int = 25
    eta: float = 2.0
    seed: int = 0

    def run(
        self,
        evaluator: Evaluator,
        model: Any,
        split: Split,
        documents: Mapping[str, Sequence[int]],
        rivals: Sequence[Scores],
        objectives: Sequence[Objective],
    ) -> Scores:
        """Return a model's scores on the documents of the rungs it has climbed.

        Args:
            documents: all documents, by task.
            rivals: scores of the candidates before, on as many rungs as they climbed.

        Raises:
            CandidateError: the model cannot be run.
        """
        began = time.perf_counter()
        answers, below = Answers({}), 0.0
        total = sum(map(len, documents.values()))
        orders = {
            task: [sorted(ids)[i] for i in in_order(len(ids), f"{self.seed}/{task}/halving")]
            for task, ids in documents.items()
        }
        share = min(1.0, self.first / total)
        while True:
            rung = {task: _share(ids, below, share) for task, ids in orders.items()}
            answers = answers | evaluator.answer(model, split, rung)
            scores = evaluator.scores(answers, time.perf_counter() - began)
            if share == 1.0 or not self._climbs(scores, rivals, objectives):
                return scores
            below, share = share, min(1.0, share * self.eta)

    def _climbs(
        self, scores: Scores, rivals: Sequence[Scores], objectives: Sequence[Objective]
    ) -> bool:
        own = _mean_on(scores, scores, objectives)
        others = [_mean_on(rival, scores, objectives) for rival in rivals]
        reached = [value for value in others if not math.isnan(value)]
        ahead = sum(value > own for value in reached)
        return ahead < math.ceil((len(reached) + 1) / self.eta)


def _share(ids: Sequence[int], start: float, end: float) -> list[int]:
    """Return the stretch of an order between two shares of it."""
    count = len(ids)
    return list(ids[math.ceil(start * count - 1e-9) : math.ceil(end * count - 1e-9)])


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
