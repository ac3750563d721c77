"""Scoring a candidate on a few informative documents and predicting its score on all of them.

An item-response model (`evomerge.evaluation.fidelity.irt`) is fitted on the answers of models that
were scored on all documents: the parents, the uniform merge, the first candidates, and all
promising candidates since. It chooses the documents to score and predicts the score on all
documents (MERGE3, Mencattini et al. 2025, after tinyBenchmarks, Maia Polo et al. 2024). A candidate
that may be the best one is scored on all documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeAlias

from evomerge.evaluation.fidelity.irt import Items
from evomerge.evaluation.fidelity.protocol import Steps
from evomerge.scores import Expected, Objective, Scores, fitness, fitness_error

Table: TypeAlias = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Prediction:
    """The policy that predicts scores by item-response theory.

    Attributes:
        documents: number of documents of each task that a candidate is scored on.
        calibration: number of models that are scored on all documents first; at least 2.
        recent: the item-response model is fitted on at most this many models, the latest ones.
        whole: see `Fidelity`.
    """

    documents: int = 40
    calibration: int = 20
    recent: int = 60
    whole: bool = True

    def steps(
        self, incumbent: Scores, earlier: Sequence[Scores], objectives: Sequence[Objective]
    ) -> Steps:
        """Yield the most informative documents, then all if the candidate may be the best."""
        known = [item for item in earlier if item.documents == incumbent.documents]
        if len(known) < self.calibration:
            yield incumbent.documents
        fitted = {
            item.key: ScaledItems.fit([scores.values[item.key] for scores in known])
            for item in objectives
        }
        chosen: dict[str, list[int]] = {}
        for item in objectives:
            if item.task not in chosen:
                chosen[item.task] = fitted[item.key].items.choose(self.documents)
        scores = yield {
            task: [incumbent.documents[task][i] for i in indices]
            for task, indices in chosen.items()
        }
        expected = {
            item.key: fitted[item.key].predict(chosen[item.task], scores.values[item.key])
            for item in objectives
        }
        predicted = replace(scores, expected=expected)
        error = fitness_error(objectives, predicted) or 0.0
        if fitness(objectives, predicted) + error >= fitness(objectives, incumbent):
            yield incumbent.documents
        return expected


@dataclass(frozen=True)
class ScaledItems:
    """Fitted documents for a metric of any range; its values are mapped linearly to 0 .. 1.

    Attributes:
        items: the fitted documents.
        low: the value that is mapped to 0.
        width: the range that is mapped to 0 .. 1.
    """

    items: Items
    low: float
    width: float

    @classmethod
    def fit(cls, answers: Sequence[Sequence[float]]) -> ScaledItems:
        """Fit documents to the answers of models.

        Args:
            answers: (models, documents) values of the metric.
        """
        low, high = min(map(min, answers)), max(map(max, answers))
        width = high - low or 1.0
        return cls(
            _fitted(tuple(tuple((v - low) / width for v in row) for row in answers)), low, width
        )

    def predict(self, documents: Sequence[int], values: Sequence[float]) -> Expected:
        """Return the expected score of a model on all documents, from its answers to some.

        Args:
            documents: indices of the documents that were scored.
            values: the model's values on them.
        """
        inside = [min(1.0, max(0.0, (value - self.low) / self.width)) for value in values]
        found = self.items.predict(documents, inside)
        return Expected(self.low + self.width * found.value, self.width * found.error)


@lru_cache(maxsize=8)
def _fitted(answers: Table) -> Items:
    """Return fitted documents; cached, since many candidates in a row use the same fit."""
    return Items.fit(answers)
