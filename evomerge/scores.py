"""What came out of a candidate: per-document scores or a failure, and the objective over them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Split: TypeAlias = Literal["search", "validation", "test"]


@dataclass(frozen=True)
class Scores:
    """Per-document scores of one model on one split.

    Attributes:
        documents: task -> ids of the scored documents, in the order they were scored.
        values: (task, metric) as `"task/metric"` -> one value a document, aligned with
            `documents[task]`; as lm-eval's `process_results` gives it (direction untouched).
        aggregates: `"task/metric"` -> what the metric's own aggregation makes of the values
            (the figure that lm_eval prints).
        seconds: wall-clock seconds by phase (`merge`, `evaluate`).
    """

    documents: Mapping[str, tuple[int, ...]]
    values: Mapping[str, tuple[float, ...]]
    aggregates: Mapping[str, float]
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def fidelity(self) -> dict[str, int]:
        """Number of documents used, by task."""
        return {task: len(ids) for task, ids in self.documents.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "documents": {task: list(ids) for task, ids in self.documents.items()},
            "values": {key: list(values) for key, values in self.values.items()},
            "aggregates": dict(self.aggregates),
            "seconds": dict(self.seconds),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Scores:
        """Read what `to_dict` wrote."""
        return cls(
            documents={task: tuple(ids) for task, ids in data["documents"].items()},
            values={key: tuple(values) for key, values in data["values"].items()},
            aggregates=dict(data["aggregates"]),
            seconds=dict(data.get("seconds", {})),
        )


@dataclass(frozen=True)
class Failure:
    """Why a candidate has no scores.

    Attributes:
        stage: `merge`, `evaluate`, `timeout` or `lost`.
        reason: one sentence.
    """

    stage: str
    reason: str


Outcome: TypeAlias = Scores | Failure


@dataclass(frozen=True)
class Objective:
    """One thing to be maximised: a metric of a task.

    Attributes:
        task: lm-eval task (or own objective) name.
        metric: metric name, with its filter (`exact_match,strict-match`) where it has several.
        weight: share in the weighted sum, > 0.
        higher_is_better: the metric's own direction; where False the sign is turned here.
    """

    task: str
    metric: str
    weight: float = 1.0
    higher_is_better: bool = True

    @property
    def key(self) -> str:
        """Key into `Scores.values` and `Scores.aggregates`."""
        return f"{self.task}/{self.metric}"

    def value(self, scores: Scores) -> float:
        """Return the aggregate, turned so that higher is better."""
        raw = scores.aggregates[self.key]
        return raw if self.higher_is_better else -raw


def fitness(objectives: Sequence[Objective], scores: Scores) -> float:
    """Weighted mean of the objectives: sum(w_i v_i) / sum(w_i); nan if any value is nan."""
    total = sum(objective.weight for objective in objectives)
    value = sum(objective.weight * objective.value(scores) for objective in objectives) / total
    return value if math.isfinite(value) else math.nan


def paired_fitness(objectives: Sequence[Objective], scores: Scores, reference: Scores) -> float:
    """Estimate the fitness of a candidate that was scored on fewer documents than a reference.

    For each objective: the reference's value plus the mean difference over the documents that
    both were scored on; then the weighted mean. Holds for metrics that are means over documents.

    Raises:
        ValueError: an objective has no document in common.
    """
    total = 0.0
    for objective in objectives:
        key = objective.key
        known = dict(zip(reference.documents[objective.task], reference.values[key], strict=True))
        pairs = [
            (value, known[document])
            for document, value in zip(
                scores.documents[objective.task], scores.values[key], strict=True
            )
            if document in known
        ]
        if not pairs:
            raise ValueError(f"{objective.task}: no document in common with the reference")
        difference = sum(value - other for value, other in pairs) / len(pairs)
        sign = 1.0 if objective.higher_is_better else -1.0
        total += objective.weight * (objective.value(reference) + sign * difference)
    return total / sum(objective.weight for objective in objectives)
