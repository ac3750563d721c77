"""Racing: a candidate is no longer scored once it is unlikely to beat the incumbent.

The candidate is scored on larger and larger samples of the documents. After each sample it is
compared with the incumbent document by document. When the probability that it is ahead on all
documents falls below 1 - confidence, the remaining documents are skipped. The paired comparison
removes the difficulty of the documents from the variance, and stratified sampling
(`evomerge.evaluation.fidelity.strata`) reduces it further. The probability is that of a normal
distribution with a finite-population correction, because only the documents not yet scored are
unknown (racing: Maron and Moore, Hoeffding Races, 1994; paired comparison: Birattari et al.,
F-Race, 2002).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from evomerge.evaluation.fidelity.protocol import Steps
from evomerge.evaluation.fidelity.strata import (
    differences,
    estimate,
    expected_scores,
    expected_squares,
    sample,
    stratify,
)
from evomerge.scores import Objective, Scores, fitness

_GROWTH = 1.4  # least factor between one sample size and the next


@dataclass(frozen=True)
class Race:
    """The racing policy.

    Attributes:
        confidence: a candidate is stopped when it is behind the incumbent with this probability.
        minimum: number of documents that each sample has more than the one before, at least; before
            the first sample is scored, no candidate is stopped.
        seed: determines, with the earlier candidates, the order of the documents.
        recent: number of earlier candidates from which the strata are made.
        whole: see `Fidelity`.
        strata_per_task: maximum number of strata in a task; 1 gives a plain random sample.
    """

    confidence: float = 0.98
    minimum: int = 50
    seed: int = 0
    recent: int = 40
    whole: bool = False
    strata_per_task: int = 4

    def steps(
        self, incumbent: Scores, earlier: Sequence[Scores], objectives: Sequence[Objective]
    ) -> Steps:
        """Yield larger and larger samples until the candidate is unlikely to be ahead."""
        documents = incumbent.documents
        squares = expected_squares(objectives, incumbent, earlier)
        # The strata are made from earlier candidates' answers, so the order must not be theirs.
        known = ",".join(float(fitness(objectives, scores)).hex() for scores in earlier)
        strata = stratify(squares, documents, f"{self.seed}/race/{known}", self.strata_per_task)
        for count in self.sizes(sum(map(len, documents.values()))):
            scores = yield sample(strata, documents, count)
            mean, variance = estimate(strata, differences(objectives, scores, incumbent))
            if chance(mean, variance) < 1 - self.confidence:
                break
        return expected_scores(strata, objectives, scores, incumbent, earlier)

    def sizes(self, total: int) -> list[int]:
        """Sample sizes at which the race is checked; the last is all documents.

        The documents are divided into equal parts of at least `minimum`, and each sample adds whole
        parts. So what is scored at once is never a remainder of a few documents, which would cost
        almost as much time as a full batch.

        Args:
            total: number of all documents.
        """
        parts = max(1, total // self.minimum)
        sizes, taken = [], 1
        while taken < parts:
            sizes.append(math.ceil(total * taken / parts))
            taken = math.ceil(taken * _GROWTH)
        return [*sizes, total]


def chance(mean: float, variance: float) -> float:
    """Return the probability that a difference with this mean and variance is above 0."""
    if variance == 0.0:
        return 0.5 if mean == 0.0 else float(mean > 0.0)
    return NormalDist().cdf(mean / math.sqrt(variance))
