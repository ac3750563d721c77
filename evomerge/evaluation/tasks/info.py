"""Properties of tasks and groups: number of documents, metrics and their directions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeAlias

from evomerge.compat.lm_eval import Group, filter_names
from evomerge.errors import ConfigError, did_you_mean
from evomerge.evaluation.inference.sampling import is_sampled
from evomerge.evaluation.tasks.loading import shows_images
from evomerge.evaluation.tasks.scoring import DocumentMetrics, Instance
from evomerge.scores import NLL, TOKENS, Objective

Measure: TypeAlias = Callable[[str, Sequence[Instance]], DocumentMetrics]


@dataclass(frozen=True)
class MetricInfo:
    """One metric of a task.

    Attributes:
        is_mean: whether the score is the mean of one value per document (true of `acc`; not of
            `f1`, of a perplexity or of a group's average).
    """

    higher_is_better: bool
    is_mean: bool


@dataclass(frozen=True)
class TaskInfo:
    """A task or objective function with documents of its own.

    Attributes:
        name: its name in lm-eval, or the name of the objective function (`module:function`).
        kind: `multiple_choice`, `loglikelihood`, `loglikelihood_rolling`, `generate_until` or
            `function`.
        documents: number of documents; their ids are 0 .. documents - 1.
        metrics: metric key -> properties. The key is the metric's name, with the filter's name
            appended (`exact_match,strict-match`) if the task has several filters. Every task of
            lm-eval also has `nll`, which we compute; those that generate texts, `tokens`.
        dataset: the name of the data set, and in `dataset_config` of its configuration.
        task_splits: lm-eval's splits that the task has -> their names in the data set.
        task_split: the one that the documents come from.
        repeats: number of texts that are generated for each document.
        is_sampled: whether these are drawn at random.
        has_filters: whether the task has filters of its own.
        shows_images: whether the model sees images; such a task is scored by lm-eval's own class.
        filters: names of the filters; lm-eval's default one, `none`, takes the first text.
    """

    name: str
    kind: str
    documents: int
    metrics: Mapping[str, MetricInfo]
    dataset: str = ""
    task_splits: Mapping[str, str] = field(default_factory=dict)
    task_split: str = ""
    dataset_config: str = ""
    repeats: int = 1
    is_sampled: bool = False
    has_filters: bool = True
    filters: tuple[str, ...] = ()
    shows_images: bool = False

    def filtered(self) -> Iterator[tuple[str, str, str]]:
        """Yield the name, the filter and the key of each metric."""
        for key in self.metrics:
            metric, _, label = key.partition(",")
            yield metric, label or (self.filters[0] if len(self.filters) == 1 else "none"), key

    @property
    def source(self) -> str:
        """Task and split of the documents; in equal sources, equal ids are the same document."""
        return f"{self.name}:{self.task_split}" if self.task_split else self.name


@dataclass(frozen=True)
class Average:
    """One metric of a group: (task, the metric's key there); whether sizes are the weights."""

    keys: Sequence[tuple[str, str]]
    by_size: bool


@dataclass(frozen=True)
class GroupInfo:
    """A group of tasks whose scores are averaged.

    Attributes:
        tasks: names of all tasks in it, those of nested groups included. A task that is in two of
            these is here twice, and counts twice, as in lm-eval.
        averages: metric key -> what is averaged; keys are made as in `TaskInfo`.
        metrics: metric key -> properties; `is_mean` is false, since a group has no documents.
    """

    name: str
    tasks: tuple[str, ...]
    averages: Mapping[str, Average]
    metrics: Mapping[str, MetricInfo]


@dataclass(frozen=True)
class TasksInfo:
    """All tasks and functions that the objectives name, those inside of groups too, and groups."""

    tasks: Mapping[str, TaskInfo]
    groups: Mapping[str, GroupInfo]

    def metric(self, task: str, metric: str, where: str = "objectives") -> tuple[str, MetricInfo]:
        """Return the key and the properties of a metric of a task or group.

        Args:
            metric: the metric's name or key.
            where: the key of the search file that names it, for the error.

        Raises:
            ConfigError: the task has no such metric, or has it under several filters.
        """
        owner = self.groups.get(task) or self.tasks[task]
        for name in (metric, metric.removesuffix(",none")):
            if name in owner.metrics:
                return name, owner.metrics[name]
        filtered = [key for key in owner.metrics if key.split(",")[0] == metric]
        if filtered:
            raise ConfigError(
                f"{where}: metric {metric!r} of task {task!r} exists with several filters; "
                f"name one of {', '.join(filtered)}."
            )
        raise ConfigError(
            f"{where}: task {owner.name!r} has no metric {metric!r}; it has "
            f"{', '.join(sorted(owner.metrics)) or 'none'}.{did_you_mean(metric, owner.metrics)}"
        )

    def leaves(self, name: str) -> tuple[str, ...]:
        """Return the tasks of a group, or the task itself if the name is a task's."""
        return self.groups[name].tasks if name in self.groups else (name,)

    def of_tasks(self, objectives: Iterable[Objective]) -> Iterator[Objective]:
        """Yield the objectives of single tasks; the tasks of a group divide its weight evenly."""
        for item in objectives:
            if item.task not in self.groups:
                yield item
                continue
            keys = self.groups[item.task].averages[item.metric].keys
            for task, key in keys:
                yield replace(item, task=task, metric=key, weight=item.weight / len(keys))

    def aggregate_groups(
        self, aggregates: Mapping[str, Mapping[str, float]], sizes: Mapping[str, int]
    ) -> dict[str, dict[str, float]]:
        """Return the average over the tasks of each group: group -> metric key -> average.

        Tasks that were not scored are left out.

        Args:
            aggregates: task -> metric key -> aggregate over documents.
            sizes: task -> number of documents.
        """
        result: dict[str, dict[str, float]] = {}
        for name, group in self.groups.items():
            for metric, average in group.averages.items():
                keys = [
                    (task, key) for task, key in average.keys if key in aggregates.get(task, {})
                ]
                weights = [sizes[task] if average.by_size else 1 for task, _ in keys]
                values = [aggregates[task][key] for task, key in keys]
                if keys:
                    total = sum(a * b for a, b in zip(values, weights, strict=True))
                    result.setdefault(name, {})[metric] = total / sum(weights)
        return result


def describe(tasks: Mapping[str, Any], groups: Mapping[str, Group], measure: Measure) -> TasksInfo:
    """Return the properties of loaded lm-eval tasks and groups.

    Args:
        tasks: lm-eval's task objects by the objectives' names, which may differ from lm-eval's.
        measure: returns the metrics of a document, from the name of its task and its requests.
    """
    info = {name: _task_info(name, task, measure) for name, task in tasks.items()}
    return TasksInfo(info, {name: _group_info(name, group, info) for name, group in groups.items()})


def _task_info(name: str, task: Any, measure: Measure) -> TaskInfo:
    direction, aggregation = task.higher_is_better(), task.aggregation()
    kind = str(task.get_config("output_type") or task.OUTPUT_TYPE)
    metrics = {}
    for key, value in _probe(task, partial(measure, name)).items():
        metric = key.split(",")[0]
        is_mean = _is_mean(aggregation.get(metric), value)
        metrics[key] = MetricInfo(bool(direction.get(metric, True)), is_mean)
    for key in (TOKENS, NLL) if kind == "generate_until" else (NLL,):
        metrics.setdefault(key, MetricInfo(higher_is_better=False, is_mean=True))
    names = ("training", "validation", "test")
    named = {split: task.get_config(f"{split}_split") for split in names}
    task_splits = {split: str(own) for split, own in named.items() if own}
    return TaskInfo(
        name=str(task.get_config("task") or name),
        kind=kind,
        documents=len(task.eval_docs),
        metrics=metrics,
        dataset=str(task.get_config("dataset_path") or ""),
        task_splits=task_splits,
        task_split=next((split for split in ("test", "validation") if split in task_splits), ""),
        dataset_config=str(task.get_config("dataset_name") or ""),
        repeats=int(task.get_config("repeats") or 1),
        is_sampled=kind == "generate_until"
        and is_sampled(task.get_config("generation_kwargs") or {}),
        has_filters=bool(task.get_config("filter_list")),
        filters=filter_names(task),
        shows_images=shows_images(task),
    )


def _is_mean(aggregation: Any, value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return False
    try:
        return aggregation is None or bool(aggregation([0.0, 0.0, 1.5]) == 0.5)
    except Exception:  # the aggregation does not take numbers
        return False


def _probe(task: Any, measure: Callable[[Sequence[Instance]], DocumentMetrics]) -> DocumentMetrics:
    """Return metric key -> value of the first document, computed from made-up answers."""
    shots = task.get_config("num_fewshot")
    try:
        task.set_config(key="num_fewshot", value=0)
        task.build_all_requests(samples=[0])
        for instance in task.instances:
            instance.resps = [_made_up(instance)] * instance.repeats
        found = measure(task.instances)
    except Exception:  # a task's own code may fail on made-up answers
        found = {}
    finally:
        task.set_config(key="num_fewshot", value=shots)
    return found or dict.fromkeys(task.aggregation(), 0.0)


def _made_up(instance: Any) -> Any:
    if instance.request_type == "generate_until":
        return ""
    return -1.0 if instance.request_type == "loglikelihood_rolling" else (-1.0, False)


def _group_info(name: str, group: Group, tasks: Mapping[str, TaskInfo]) -> GroupInfo:
    found: dict[tuple[str, str], Average] = {}  # by metric and filter
    for item in group.averages:
        wanted = item.get("filter_list")
        wanted = [wanted] if isinstance(wanted, str) else wanted
        keys: dict[tuple[str, str], list[tuple[str, str]]] = {}
        for task in group.tasks:
            for metric, label, key in tasks[task].filtered():
                if metric == item["metric"] and (wanted is None or label in wanted):
                    keys.setdefault((metric, label), []).append((task, key))
        by_size = bool(item.get("weight_by_size"))
        found |= {name: Average(own, by_size) for name, own in keys.items()}
    of_metric = Counter(metric for metric, _ in found)
    averages = {
        f"{metric},{label}" if of_metric[metric] > 1 else metric: average
        for (metric, label), average in found.items()
    }
    averages.setdefault(NLL, Average([(task, NLL) for task in group.tasks], by_size=False))
    firsts = {name: average.keys[0] for name, average in averages.items()}
    metrics = {
        name: replace(tasks[task].metrics[key], is_mean=False)
        for name, (task, key) in firsts.items()
    }
    return GroupInfo(name, group.tasks, averages, metrics)
