"""Stopping a candidate that will not beat the elite.

Documents are scored in a fixed random order, stretch by stretch. After each stretch the candidate
is compared with the elite document by document; if the chance that it would be ahead once all
documents were scored falls below 1 - confidence, the rest is left out. The pairing removes how
hard the documents are, so that differences show after few of them; the chance is that of a normal
distribution with the correction for a finite population, for the documents not yet scored are the
only thing unknown (Cochran, Sampling Techniques, 1977, section 2.6; racing: Maron and Moore,
Hoeffding Races, 1994; paired: Birattari et al., F-Race, 2002).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, variance
from typing import Any

from evomerge.errors import ConfigError
from evomerge.evaluate.evaluator import Answers, Evaluator
from evomerge.evaluate.facts import Facts
from evomerge.evaluate.subsets import in_order
from evomerge.scores import Objective, Scores, Split

_STRETCHES = 8  # into which the documents after the first stretch are cut


@dataclass(frozen=True)
class Race:
    """How candidates are raced against the elite.

    Attributes:
        confidence: how sure it must be that a candidate is not ahead before it is stopped.
        minimum: documents scored before it may be stopped.
        seed: seed of the order of the documents.
    """

    confidence: float = 0.98
    minimum: int = 50
    seed: int = 0

    def check(self, objectives: Sequence[Objective], facts: Facts) -> None:
        """Refuse objectives whose score is not a mean over documents.

        Raises:
            ConfigError: one of them is not.
        """
        for objective in objectives:
            _, about = facts.metric(objective.task, objective.metric)
            if not about.is_mean:
                raise ConfigError(
                    f"evaluation.racing compares candidates document by document, but metric "
                    f"{objective.metric!r} of {objective.task!r} is not a mean over documents; "
                    f"set evaluation.racing.enabled to false, or name the tasks of a group one "
                    f"by one."
                )

    def run(
        self,
        evaluator: Evaluator,
        model: Any,
        split: Split,
        elite: Scores,
        objectives: Sequence[Objective],
    ) -> Scores:
        """Return a model's scores on the elite's documents, or on as many as were needed.

        Raises:
            CandidateError: the model cannot be run.
        """
        began = time.perf_counter()
        answers = Answers({})
        for stretch in self.stretches(elite.documents):
            answers = answers | evaluator.answer(model, split, stretch)
            scores = evaluator.scores(answers, time.perf_counter() - began)
            if sum(scores.fidelity.values()) < self.minimum:
                continue
            if chance(objectives, scores, elite) < 1 - self.confidence:
                break
        return scores

    def stretches(self, documents: Mapping[str, Sequence[int]]) -> list[dict[str, list[int]]]:
        """Return the documents cut into stretches, every task in proportion in each."""
        total = sum(map(len, documents.values()))
        first = min(1.0, self.minimum / total)
        shares = [first + (1 - first) * step / _STRETCHES for step in range(_STRETCHES + 1)]
        orders = {
            task: [sorted(ids)[i] for i in in_order(len(ids), f"{self.seed}/{task}/race")]
            for task, ids in documents.items()
        }
        cuts = {
            task: [0, *(math.ceil(share * len(ids) - 1e-9) for share in shares)]
            for task, ids in orders.items()
        }
        stretches = [
            {task: ids[cuts[task][step] : cuts[task][step + 1]] for task, ids in orders.items()}
            for step in range(len(shares))
        ]
        return [stretch for stretch in stretches if any(stretch.values())]


def chance(objectives: Sequence[Objective], scores: Scores, elite: Scores) -> float:
    """Return the probability that a partly scored candidate would be ahead on all documents.

    Args:
        scores: of some of the elite's documents.
    """
    mean = spread = 0.0
    for objective in objectives:
        known = dict(zip(elite.documents[objective.task], elite.values[objective.key], strict=True))
        sign = 1.0 if objective.higher_is_better else -1.0
        differences = [
            sign * (value - known[document])
            for document, value in zip(
                scores.documents[objective.task], scores.values[objective.key], strict=True
            )
        ]
        count, everything = len(differences), len(known)
        mean += objective.weight * fmean(differences)
        if 1 < count < everything:
            # one more document, on which the two differ as two documents do: where all answers
            # were alike so far, the next ones need not be
            spread_of_one = ((count - 1) * variance(differences) + variance(known.values())) / count
            unknown = (1 - count / everything) / count
            spread += objective.weight**2 * spread_of_one * unknown
        elif count < everything:
            return 0.5
    if spread == 0.0:
        return 0.5 if mean == 0.0 else float(mean > 0.0)
    return NormalDist().cdf(mean / math.sqrt(spread))
