"""The metrics of single documents, by lm-eval's own filters and metrics; examples for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from evomerge.compat.lm_eval import filters_of
from evomerge.evaluation.inference.calls import calling
from evomerge.scores import Example

Instance: TypeAlias = Any

DocumentMetrics: TypeAlias = dict[str, Any]
"""Metric key -> value of one document, as lm-eval computes it."""

_PROMPT, _ANSWER = 600, 300
"""Characters that are kept: of a prompt the last ones, of an answer and a target the first."""


class TaskMetrics:
    """Computes the metrics of documents of one task of lm-eval.

    lm-eval renders the target and the choices of a document whenever it does so: for every
    candidate. Here they are rendered once.
    """

    def __init__(self, task: Any) -> None:
        self._task, self._filters = task, filters_of(task)
        self._rendered: dict[tuple[str, int], tuple[Any, Any]] = {}  # document, text or choices
        names = [name for name in ("doc_to_target", "doc_to_choice") if hasattr(task, name)]
        self._recalls = {name: self._recall(name, getattr(task, name)) for name in names}

    def __call__(self, documents: Sequence[Sequence[Instance]]) -> list[DocumentMetrics]:
        """Return the metrics of each document, from the answers (`resps`) in its requests.

        A key is the metric's name, with the filter's name appended (`exact_match,strict-match`) if
        the task has several filters.
        """
        instances = [instance for requests in documents for instance in requests]
        for instance in instances:
            instance.filtered_resps = {}
        metrics: list[DocumentMetrics] = [{} for _ in documents]
        vars(self._task).update(self._recalls)
        try:
            with calling():
                for ensemble in self._filters:
                    ensemble.apply(instances)
                    suffix = f",{ensemble.name}" if len(self._filters) > 1 else ""
                    for row, requests in zip(metrics, documents, strict=True):
                        answers = [instance.filtered_resps[ensemble.name] for instance in requests]
                        values = self._task.process_results(requests[0].doc, answers)
                        row |= {f"{metric}{suffix}": value for metric, value in values.items()}
        finally:
            for name in self._recalls:
                delattr(self._task, name)
        return metrics

    def _recall(self, name: str, render: Callable[..., Any]) -> Callable[..., Any]:
        def recall(document: Any, *override: Any, **options: Any) -> Any:
            if override or options:
                return render(document, *override, **options)
            key = (name, id(document))  # an id is used again when its object is gone
            if key not in self._rendered or self._rendered[key][0] is not document:
                self._rendered[key] = (document, render(document))
            return self._rendered[key][1]

        return recall


def aggregated(task: Any, rows: Sequence[DocumentMetrics]) -> dict[str, float]:
    """Return metric key -> aggregate over documents, by the metric's own aggregation, or mean."""
    aggregation = task.aggregation()
    columns: dict[str, list[Any]] = {}
    for row in rows:
        for key, value in row.items():
            columns.setdefault(key, []).append(value)
    mean = lambda values: sum(values) / len(values)  # noqa: E731
    with calling():
        return {k: float(aggregation.get(k.split(",")[0], mean)(of)) for k, of in columns.items()}


def example(
    task: Any, name: str, document: int, requests: Sequence[Instance], values: Mapping[str, float]
) -> Example:
    """Return one scored document of the task `name` as people read it, with long texts cut."""
    first = requests[0]
    prompt = str(first.args[0])
    with calling():
        target = task.doc_to_target(first.doc)
        choices = task.doc_to_choice(first.doc) if task.get_config("doc_to_choice") else None
    if first.request_type == "generate_until":
        answer = str(first.resps[0])
        parsed = str(next(iter(first.filtered_resps.values()), answer))
    elif first.request_type == "loglikelihood":
        best = max(requests, key=lambda request: float(request.resps[0][0]))
        answer = parsed = str(best.args[1]).strip()
    else:
        answer = parsed = target = ""
    if choices and isinstance(target, int) and 0 <= target < len(choices):
        target = choices[target]
    prompt = prompt if len(prompt) <= _PROMPT else "..." + prompt[-_PROMPT:]
    texts = (answer, parsed, str(target))
    short = [plain(text if len(text) <= _ANSWER else text[:_ANSWER] + "...") for text in texts]
    return Example(name, document, plain(prompt), short[0], short[1], short[2], dict(values))


def plain(text: str) -> str:
    """Return the text without lone surrogates, which no file can hold."""
    return text.encode("utf-8", "replace").decode()
