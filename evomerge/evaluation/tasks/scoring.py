"""The metrics of single documents, by lm-eval's own filters and metrics; examples for people."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from evomerge.scores import NLL, Example
from evomerge.trust.calls import calling

Instance: TypeAlias = Any

DocumentMetrics: TypeAlias = dict[str, Any]
"""Metric key -> value of one document, as lm-eval computes it."""

_PROMPT, _ANSWER = 600, 300
"""Characters that are kept: of a prompt the last ones, of an answer and a target the first."""


def document_metrics(
    task: Any, filters: Sequence[Any], documents: Sequence[Sequence[Instance]]
) -> list[DocumentMetrics]:
    """Return the metrics of each document of a task, from the answers (`resps`) in its requests.

    `filters` are those of the task (`filters_of`). A key is the metric's name, with the filter's
    name appended (`exact_match,strict-match`) if the task has several filters.
    """
    instances = [instance for requests in documents for instance in requests]
    for instance in instances:
        instance.filtered_resps = {}
    metrics: list[DocumentMetrics] = [{} for _ in documents]
    with calling():
        for ensemble in filters:
            ensemble.apply(instances)
            suffix = f",{ensemble.name}" if len(filters) > 1 else ""
            for row, requests in zip(metrics, documents, strict=True):
                answers = [instance.filtered_resps[ensemble.name] for instance in requests]
                values = task.process_results(requests[0].doc, answers)
                row |= {f"{metric}{suffix}": value for metric, value in values.items()}
    return metrics


def summarized(
    task: Any, kind: str, rows: Sequence[DocumentMetrics]
) -> tuple[dict[str, tuple[float, ...]], dict[str, float]]:
    """Return metric key -> one number for each document, if it has any; and metric key -> score.

    A score is that of the metric's own aggregation, or the mean. Where the value of a document of
    the `kind` `loglikelihood_rolling` is a pair, its number is the perplexity.
    """
    aggregation, numbers, scores = task.aggregation(), {}, {}
    columns: dict[str, list[Any]] = {}
    for row in rows:
        for key, value in row.items():
            columns.setdefault(key, []).append(value)
    mean = lambda values: sum(values) / len(values)  # noqa: E731
    with calling():
        for key, values in columns.items():
            aggregate = aggregation.get(key.split(",")[0], mean)
            scores[key] = float(aggregate(values))
            if kind == "loglikelihood_rolling" and key != NLL:
                values = [aggregate([item]) for item in values]
            if len(values) == len(rows) and not {*map(type, values)} & {tuple, list}:
                numbers[key] = tuple(map(float, values))
    return numbers, scores


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
    return in_short(name, document, (prompt, answer, parsed, str(target)), values)


def in_short(
    task: str, document: int, texts: Sequence[str], values: Mapping[str, float]
) -> Example:
    """Return a scored document with long texts cut: prompt, answer, parsed answer, target."""
    prompt, *others = texts
    prompt = prompt if len(prompt) <= _PROMPT else "..." + prompt[-_PROMPT:]
    short = [plain(text if len(text) <= _ANSWER else text[:_ANSWER] + "...") for text in others]
    return Example(task, document, plain(prompt), short[0], short[1], short[2], dict(values))


def plain(text: str) -> str:
    """Return the text without lone surrogates, which no file can hold."""
    return text.encode("utf-8", "replace").decode()
