"""What came out of a candidate: per-document scores or a failure, and the objective over them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from evomerge.errors import one_line

Split: TypeAlias = Literal["search", "validation", "test"]

SPLITS: tuple[Split, ...] = ("search", "validation", "test")


@dataclass(frozen=True)
class Expected:
    """A score on all documents, as some of them let expect it, and one standard error of it."""

    value: float
    error: float


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
        expected: `"task/metric"` -> what the aggregate is expected to be on all documents, where
            only some were scored and the rest was estimated; empty where nothing was.
        halvings: how often batches had been halved, since memory ran out; it shows in last bits.
    """

    documents: Mapping[str, tuple[int, ...]]
    values: Mapping[str, tuple[float, ...]]
    aggregates: Mapping[str, float]
    seconds: Mapping[str, float] = field(default_factory=dict)
    expected: Mapping[str, Expected] = field(default_factory=dict)
    halvings: int = 0

    @property
    def fidelity(self) -> dict[str, int]:
        """Number of documents used, by task."""
        return {task: len(ids) for task, ids in self.documents.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        plain = {
            "documents": {task: list(ids) for task, ids in self.documents.items()},
            "values": {key: list(values) for key, values in self.values.items()},
            "aggregates": dict(self.aggregates),
            "seconds": dict(self.seconds),
        }
        if self.expected:
            plain["expected"] = {
                key: {"value": item.value, "error": item.error}
                for key, item in self.expected.items()
            }
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Scores:
        """Read what `to_dict` wrote."""
        return cls(
            documents={task: tuple(ids) for task, ids in data["documents"].items()},
            values={key: tuple(values) for key, values in data["values"].items()},
            aggregates=dict(data["aggregates"]),
            seconds=dict(data.get("seconds", {})),
            expected={key: Expected(**item) for key, item in data.get("expected", {}).items()},
        )


@dataclass(frozen=True)
class Failure:
    """Why a candidate has no scores.

    Attributes:
        stage: `merge`, `evaluate`, `timeout` or `lost`.
        reason: one line.
    """

    stage: str
    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", one_line(self.reason))


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
        """Return the aggregate, or the expected one, turned so that higher is better."""
        known = scores.expected.get(self.key)
        raw = scores.aggregates[self.key] if known is None else known.value
        return raw if self.higher_is_better else -raw


def fitness(objectives: Sequence[Objective], scores: Scores) -> float:
    """Weighted mean of the objectives: sum(w_i v_i) / sum(w_i); nan if any value is nan."""
    total = sum(objective.weight for objective in objectives)
    value = sum(objective.weight * objective.value(scores) for objective in objectives) / total
    return value if math.isfinite(value) else math.nan


def fitness_error(objectives: Sequence[Objective], scores: Scores) -> float | None:
    """Return one standard error of an estimated fitness, None where all documents were scored.

    Different tasks ask different documents, so their errors are independent; metrics of one task
    share the documents, and their errors are added.
    """
    if not scores.expected:
        return None
    total = sum(objective.weight for objective in objectives)
    by_task: dict[str, float] = {}
    for objective in objectives:
        known = scores.expected.get(objective.key)
        error = 0.0 if known is None else objective.weight / total * known.error
        by_task[objective.task] = by_task.get(objective.task, 0.0) + error
    return math.hypot(*by_task.values())
