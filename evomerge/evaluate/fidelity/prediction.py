"""Scoring a candidate on a few informative documents and predicting the rest.

Item-response theory (`evomerge.evaluate.fidelity.irt`) is fitted on the answers of models that
were scored on all documents: the parents, the uniform merge, the first candidates, and whoever was
promising since. It says which documents to ask and what they let expect (MERGE3, Mencattini et al.
2025, of tinyBenchmarks, Maia Polo et al. 2024). A candidate that may be the best is scored on all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeAlias

from evomerge.evaluate.fidelity.irt import Items
from evomerge.evaluate.fidelity.protocol import Steps
from evomerge.scores import Expected, Objective, Scores, fitness, fitness_error

Table: TypeAlias = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Prediction:
    """How candidates are predicted.

    Attributes:
        documents: documents of each task that a candidate is asked.
        calibration: models scored on all documents before any is predicted, at least 2.
        recent: the latest of such models that the items are fitted on.
    """

    documents: int = 40
    calibration: int = 20
    recent: int = 60
    whole: bool = True

    def steps(
        self, incumbent: Scores, earlier: Sequence[Scores], objectives: Sequence[Objective]
    ) -> Steps:
        """Ask for the documents that tell most; for the rest if the candidate may be the best."""
        known = [item for item in earlier if item.documents == incumbent.documents]
        if len(known) < self.calibration:
            yield incumbent.documents
        scales = {
            item.key: Scale.of([scores.values[item.key] for scores in known]) for item in objectives
        }
        places: dict[str, list[int]] = {}
        for item in objectives:
            if item.task not in places:
                places[item.task] = scales[item.key].items.choose(self.documents)
        scores = yield {
            task: [incumbent.documents[task][i] for i in chosen] for task, chosen in places.items()
        }
        expected = {
            item.key: scales[item.key].predict(places[item.task], scores.values[item.key])
            for item in objectives
        }
        predicted = replace(scores, expected=expected)
        error = fitness_error(objectives, predicted) or 0.0
        if fitness(objectives, predicted) + error >= fitness(objectives, incumbent):
            yield incumbent.documents
        return expected


@dataclass(frozen=True)
class Scale:
    """A metric's items, and the range of its values that they count from 0 to 1."""

    items: Items
    low: float
    width: float

    @classmethod
    def of(cls, answers: Sequence[Sequence[float]]) -> Scale:
        """Fit the items of models' answers, whatever the range of the metric.

        Args:
            answers: (models, documents) values.
        """
        low, high = min(map(min, answers)), max(map(max, answers))
        width = high - low or 1.0
        return cls(
            _fitted(tuple(tuple((v - low) / width for v in row) for row in answers)), low, width
        )

    def predict(self, places: Sequence[int], values: Sequence[float]) -> Expected:
        """Return what answers to some documents let expect of all."""
        inside = [min(1.0, max(0.0, (value - self.low) / self.width)) for value in values]
        found = self.items.predict(places, inside)
        return Expected(self.low + self.width * found.value, self.width * found.error)


@lru_cache(maxsize=8)
def _fitted(answers: Table) -> Items:
    """Fit items once for all candidates until another model is scored on all documents."""
    return Items.fit(answers)
