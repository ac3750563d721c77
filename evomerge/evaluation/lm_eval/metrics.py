"""The metrics of lm-eval's tasks: which there are, and their values, as lm-eval computes them."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

from evomerge.compat.lm_eval import Group, filters_of
from evomerge.errors import ConfigError, SearchError
from evomerge.evaluation.lm_eval.loading import shows_images
from evomerge.evaluation.tasks.info import Average, GroupInfo, MetricInfo, TaskInfo, TasksInfo
from evomerge.evaluation.tasks.objective import DocumentMetrics, Summary, in_short
from evomerge.scores import NLL, TOKENS, Example
from evomerge.trust.calls import calling

Instance: TypeAlias = Any
"""A request of lm-eval."""

Measure: TypeAlias = Callable[[str, Sequence[Instance]], DocumentMetrics]


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


def summarized(task: Any, kind: str, rows: Sequence[DocumentMetrics]) -> Summary:
    """Return metric key -> one number for each document, if it has any; and metric key -> score.

    A score is that of the metric's own aggregation, or the mean. Where the value of a document of
    the `kind` `loglikelihood_rolling` is a pair, its number is the perplexity.
    """
    aggregation = task.aggregation()
    numbers, scores = dict[str, tuple[float, ...]](), dict[str, float]()
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
    if first.request_type == "generate_until":
        answer = str(first.resps[0])
        parsed = str(next(iter(first.filtered_resps.values()), answer))
    elif first.request_type == "loglikelihood":
        best = max(requests, key=lambda request: float(request.resps[0][0]))
        answer = parsed = str(best.args[1]).strip()
    else:
        answer = parsed = ""
    texts = (str(first.args[0]), answer, parsed, _target(task, first))
    return in_short(name, document, texts, values)


def unanswered(task: Any, name: str, document: int, request: Instance) -> Example:
    """Return a document of the task `name` that no model has answered, as people read it."""
    return in_short(name, document, (str(request.args[0]), "", "", _target(task, request)), {})


def _target(task: Any, request: Instance) -> str:
    """Return the right answer of a request's document; empty: the text itself is scored."""
    if request.request_type not in ("generate_until", "loglikelihood"):
        return ""
    with calling():
        target = task.doc_to_target(request.doc)
        choices = task.doc_to_choice(request.doc) if task.get_config("doc_to_choice") else ()
    is_place = isinstance(target, int) and 0 <= target < len(choices)
    return str(choices[target] if is_place else target)


def describe(tasks: Mapping[str, Any], groups: Mapping[str, Group], measure: Measure) -> TasksInfo:
    """Return the properties of loaded lm-eval tasks and groups, by the objectives' names.

    `measure` returns the metrics of a document, from the name of its task and its requests.
    """
    info = {name: _task_info(name, task, measure) for name, task in tasks.items()}
    return TasksInfo(info, {name: _group_info(group, info) for name, group in groups.items()})


def _task_info(name: str, task: Any, measure: Measure) -> TaskInfo:
    # It needs torch, which the process that scores code does without.
    from evomerge.evaluation.inference.generation import is_sampled

    get, direction, aggregation = task.get_config, task.higher_is_better(), task.aggregation()
    kind, metrics = str(get("output_type") or task.OUTPUT_TYPE), dict[str, MetricInfo]()
    for key, value in _probe(task, partial(measure, name)).items():
        metric = key.split(",")[0]
        is_mean = _is_mean(aggregation.get(metric), value)
        metrics[key] = MetricInfo(bool(direction.get(metric, True)), is_mean)
    for key in (TOKENS, NLL) if kind == "generate_until" else (NLL,):
        metrics.setdefault(key, MetricInfo(higher_is_better=False, is_mean=True))
    splits = {split: get(f"{split}_split") for split in ("training", "validation", "test")}
    task_splits = {split: str(own) for split, own in splits.items() if own}
    return TaskInfo(
        name=str(get("task") or name),
        kind=kind,
        documents=len(task.eval_docs),
        metrics=metrics,
        dataset=str(get("dataset_path") or ""),
        task_splits=task_splits,
        task_split=next((split for split in ("test", "validation") if split in task_splits), ""),
        dataset_config=str(get("dataset_name") or ""),
        repeats=int(get("repeats") or 1),
        is_sampled=kind == "generate_until" and is_sampled(get("generation_kwargs") or {}),
        filters=tuple(item.name for item in filters_of(task)),
        shows_images=shows_images(task),
    )


def _is_mean(aggregation: Any, value: Any) -> bool:
    with suppress(Exception):  # the aggregation may not take numbers
        is_plain = aggregation is None or aggregation([0.0, 0.0, 1.5]) == 0.5
        return bool(is_plain) and not isinstance(value, (tuple, list))
    return False


def _probe(task: Any, measure: Callable[[Sequence[Instance]], DocumentMetrics]) -> DocumentMetrics:
    """Return metric key -> value of the first document, computed from made-up answers.

    ConfigError: the task cannot be loaded in the process that scores code.
    """
    made_up = {"generate_until": "", "loglikelihood_rolling": -1.0}
    shots, metrics = task.get_config("num_fewshot"), DocumentMetrics()
    try:
        task.set_config(key="num_fewshot", value=0)
        task.build_all_requests(samples=[0])
        for item in task.instances:
            item.resps = [made_up.get(item.request_type, (-1.0, False))] * item.repeats
        metrics = measure(task.instances)
    except SearchError as error:
        raise ConfigError(f"objectives: {error}") from error
    except Exception:  # a task's own code may fail on made-up answers
        metrics = {}
    finally:
        task.set_config(key="num_fewshot", value=shots)
    return metrics or dict.fromkeys(task.aggregation(), 0.0)


def _group_info(group: Group, tasks: Mapping[str, TaskInfo]) -> GroupInfo:
    averages_of: dict[tuple[str, str], Average] = {}  # by metric and filter
    for item in group.averages:
        wanted = item.get("filter_list")
        wanted = [wanted] if isinstance(wanted, str) else wanted
        keys: dict[tuple[str, str], list[tuple[str, str]]] = {}
        for task in group.tasks:
            for metric, label, key in tasks[task].filtered():
                if metric == item["metric"] and (wanted is None or label in wanted):
                    keys.setdefault((metric, label), []).append((task, key))
        by_size = bool(item.get("weight_by_size"))
        averages_of |= {name: Average(own, by_size) for name, own in keys.items()}
    of_metric = Counter(metric for metric, _ in averages_of)
    averages = {
        f"{metric},{label}" if of_metric[metric] > 1 else metric: average
        for (metric, label), average in averages_of.items()
    }
    averages.setdefault(NLL, Average([(task, NLL) for task in group.tasks], by_size=False))
    firsts = ((name, *average.keys[0]) for name, average in averages.items())
    metrics = {name: replace(tasks[t].metrics[key], is_mean=False) for name, t, key in firsts}
    return GroupInfo(group.tasks, averages, metrics)
