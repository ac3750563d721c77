"""Stopping a candidate that will not beat the incumbent.

Documents are asked in ever larger samples. After each the candidate is compared with the incumbent
document by document; once the chance that it would be ahead on all documents falls below
1 - confidence, the rest is left out. The pairing removes how hard the documents are; stratifying
them by how much is to be learned from each (`evomerge.evaluate.fidelity.strata`) leaves few to be
asked. The chance is that of a normal distribution with the correction for a finite population, for
the documents not yet asked are the only thing unknown (racing: Maron and Moore, Hoeffding Races,
1994; paired: Birattari et al., F-Race, 2002).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

from evomerge.evaluate.evaluator import Answers, Evaluator
from evomerge.evaluate.fidelity.strata import (
    difference,
    expectations,
    gaps,
    sample,
    stratify,
    unrest,
)
from evomerge.scores import Objective, Scores, Split

_GROWTH = 1.4  # from one look to the next


@dataclass(frozen=True)
class Race:
    """How candidates are raced against the incumbent.

    Attributes:
        confidence: how sure it must be that a candidate is not ahead before it is stopped.
        minimum: documents asked before it may be stopped.
        seed: decides the order of the documents.
        recent: earlier candidates that tell which documents differ.
        strata: into how many the documents are cut; 1 is a plain random sample.
    """

    confidence: float = 0.98
    minimum: int = 50
    seed: int = 0
    recent: int = 40
    whole: bool = False
    strata: int = 4

    def run(
        self,
        evaluator: Evaluator,
        model: Any,
        split: Split,
        incumbent: Scores,
        earlier: Sequence[Scores],
        objectives: Sequence[Objective],
    ) -> Scores:
        """Return a model's scores on the incumbent's documents, or on as many as were needed.

        Raises:
            CandidateError: the model cannot be run.
        """
        began = time.perf_counter()
        documents = incumbent.documents
        expected = unrest(objectives, incumbent, earlier)
        strata = stratify(expected, documents, f"{self.seed}/race", self.strata)
        answers = Answers({})
        for count in self.looks(sum(map(len, documents.values()))):
            asked = sample(strata, documents, count)
            fresh = {
                task: [i for i in ids if not answers.has(task, i)] for task, ids in asked.items()
            }
            answers = answers | evaluator.answer(model, split, fresh)
            scores = evaluator.scores(answers, time.perf_counter() - began, split)
            if scores.fidelity == incumbent.fidelity:
                break
            mean, variance = difference(strata, gaps(objectives, scores, incumbent))
            if chance(mean, variance) < 1 - self.confidence:
                found = expectations(strata, objectives, scores, incumbent, earlier)
                return replace(scores, expected=found)
        return scores

    def looks(self, total: int) -> list[int]:
        """Return after how many documents it is looked who is ahead, the last after all."""
        looks = [self.minimum]
        while looks[-1] < total:
            looks.append(math.ceil(looks[-1] * _GROWTH))
        return [*looks[:-1], total]


def chance(mean: float, variance: float) -> float:
    """Return the probability that a difference with this mean and variance is above 0."""
    if variance == 0.0:
        return 0.5 if mean == 0.0 else float(mean > 0.0)
    return NormalDist().cdf(mean / math.sqrt(variance))
