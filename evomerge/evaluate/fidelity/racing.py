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
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from evomerge.evaluate.fidelity.protocol import Steps
from evomerge.evaluate.fidelity.strata import (
    difference,
    expectations,
    gaps,
    sample,
    stratify,
    unrest,
)
from evomerge.scores import Objective, Scores

_GROWTH = 1.4  # of the sample, from one check to the next


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

    def steps(
        self, incumbent: Scores, earlier: Sequence[Scores], objectives: Sequence[Objective]
    ) -> Steps:
        """Ask for larger and larger samples until the candidate is unlikely to be ahead."""
        documents = incumbent.documents
        expected = unrest(objectives, incumbent, earlier)
        strata = stratify(expected, documents, f"{self.seed}/race", self.strata)
        for count in self.sizes(sum(map(len, documents.values()))):
            scores = yield sample(strata, documents, count)
            mean, variance = difference(strata, gaps(objectives, scores, incumbent))
            if chance(mean, variance) < 1 - self.confidence:
                break
        return expectations(strata, objectives, scores, incumbent, earlier)

    def sizes(self, total: int) -> list[int]:
        """Sample sizes at which the race is checked; the last is all documents."""
        sizes = [self.minimum]
        while sizes[-1] < total:
            sizes.append(math.ceil(sizes[-1] * _GROWTH))
        return [*sizes[:-1], total]


def chance(mean: float, variance: float) -> float:
    """Return the probability that a difference with this mean and variance is above 0."""
    if variance == 0.0:
        return 0.5 if mean == 0.0 else float(mean > 0.0)
    return NormalDist().cdf(mean / math.sqrt(variance))
