"""The metrics of single documents, by lm-eval's own filters and metrics.

What this file uses of a `Task`: `apply_filters` and `process_results` of lm-eval before 0.5; since
0.5 `process_instances` and `scorers`, of a scorer `name` and `reduced_docs`; private: `_instances`
(all of these methods work on them).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

Instance: TypeAlias = Any

DocumentMetrics: TypeAlias = dict[str, Any]
"""Metric key -> value of one document, as lm-eval computes it."""

Results: TypeAlias = Callable[[Sequence[tuple[Any, Any]]], list[DocumentMetrics]]
"""Documents with their filtered answers -> the metrics of each."""


def document_metrics(
    task: Any, documents: Sequence[Sequence[Instance]], results: Results | None = None
) -> list[DocumentMetrics]:
    """Return the metrics of each document, from the answers in its requests.

    A key is the metric's name, with the filter's name appended (`exact_match,strict-match`) if the
    task has several filters.

    Args:
        task: the lm-eval task.
        documents: the requests of each document, with `resps` set.
        results: computes the metrics from documents and their filtered answers; None: the task's
            own `process_results`, one document after the other.
    """
    task._instances = [instance for requests in documents for instance in requests]
    for instance in task._instances:
        instance.filtered_resps = {}
    has_scorers = hasattr(task, "scorers")
    by_filter = _by_scorer(task, documents) if has_scorers else _by_filter(task, documents, results)
    metrics: list[DocumentMetrics] = [{} for _ in documents]
    for name, rows in by_filter.items():
        suffix = f",{name}" if len(by_filter) > 1 else ""
        for own, row in zip(metrics, rows, strict=True):
            own |= {f"{metric}{suffix}": value for metric, value in row.items()}
    return metrics


def filter_names(task: Any) -> tuple[str, ...]:
    """Return the names of an lm-eval task's filters."""
    filters = task.scorers if hasattr(task, "scorers") else task._filters
    return tuple(item.name for item in filters)


def _by_filter(
    task: Any, documents: Sequence[Sequence[Instance]], results: Results | None
) -> dict[str, list[DocumentMetrics]]:
    task.apply_filters()
    by_filter = {}
    for name in task._instances[0].filtered_resps:
        answers = [
            (requests[0].doc, [item.filtered_resps[name] for item in requests])
            for requests in documents
        ]
        by_filter[name] = (
            results(answers) if results else [task.process_results(*answer) for answer in answers]
        )
    return by_filter


def _by_scorer(
    task: Any, documents: Sequence[Sequence[Instance]]
) -> dict[str, list[DocumentMetrics]]:
    task.process_instances()
    return {
        scorer.name: [scorer.reduced_docs[requests[0].doc_id] for requests in documents]
        for scorer in task.scorers
    }
