"""The metrics of single documents, by lm-eval's own filters and metrics.

What this file uses of a `Task`: `apply_filters` and `process_results` of lm-eval before 0.5; since
0.5 `process_instances` and `scorers`, of a scorer `name` and `reduced_docs`; private: `_instances`
(all of these methods work on them).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

Instance: TypeAlias = Any

DocumentMetrics: TypeAlias = dict[str, Any]
"""Metric key -> value of one document, as lm-eval computes it."""


def document_metrics(task: Any, documents: Sequence[Sequence[Instance]]) -> list[DocumentMetrics]:
    """Return the metrics of each document, from the answers in its requests.

    A key is the metric's name, with the filter's name appended (`exact_match,strict-match`) if the
    task has several filters.

    Args:
        task: the lm-eval task.
        documents: the requests of each document, with `resps` set.
    """
    task._instances = [instance for requests in documents for instance in requests]
    for instance in task._instances:
        instance.filtered_resps = {}
    by_filter = (_by_scorer if hasattr(task, "scorers") else _by_filter)(task, documents)
    metrics: list[DocumentMetrics] = [{} for _ in documents]
    for name, rows in by_filter.items():
        suffix = f",{name}" if len(by_filter) > 1 else ""
        for own, row in zip(metrics, rows, strict=True):
            own |= {f"{metric}{suffix}": value for metric, value in row.items()}
    return metrics


def aggregated(task: Any, rows: Sequence[DocumentMetrics]) -> dict[str, float]:
    """Return metric key -> aggregate over documents, by the metric's own aggregation.

    Args:
        task: the lm-eval task.
        rows: the metrics of each document.
    """
    aggregation = task.aggregation()
    columns: dict[str, list[Any]] = {}
    for row in rows:
        for key, value in row.items():
            columns.setdefault(key, []).append(value)
    return {
        key: float(aggregation.get(key.split(",")[0], _mean)(items))
        for key, items in columns.items()
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def filter_names(task: Any) -> tuple[str, ...]:
    """Return the names of an lm-eval task's filters."""
    filters = task.scorers if hasattr(task, "scorers") else task._filters
    return tuple(item.name for item in filters)


def _by_filter(
    task: Any, documents: Sequence[Sequence[Instance]]
) -> dict[str, list[DocumentMetrics]]:
    task.apply_filters()
    return {
        name: [
            task.process_results(requests[0].doc, [item.filtered_resps[name] for item in requests])
            for requests in documents
        ]
        for name in task._instances[0].filtered_resps
    }


def _by_scorer(
    task: Any, documents: Sequence[Sequence[Instance]]
) -> dict[str, list[DocumentMetrics]]:
    task.process_instances()
    return {
        scorer.name: [scorer.reduced_docs[requests[0].doc_id] for requests in documents]
        for scorer in task.scorers
    }
