"""Properties of tasks and groups: number of documents, metrics and their directions."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from evomerge.compat.lm_eval import Group, filters_of
from evomerge.errors import ConfigError, SearchError, did_you_mean
from evomerge.evaluation.inference.generation import is_sampled
from evomerge.evaluation.tasks.loading import shows_images
from evomerge.evaluation.tasks.scoring import DocumentMetrics, Instance
from evomerge.scores import NLL, TOKENS, Objective

Measure: TypeAlias = Callable[[str, Sequence[Instance]], DocumentMetrics]


@dataclass(frozen=True)
class MetricInfo:
    """One metric of a task; its direction, and whether a score is the mean over documents.

    That is true of `acc`; not of `f1`, of a perplexity or of a group's average.
    """

    higher_is_better: bool
    is_mean: bool


@dataclass(frozen=True)
class TaskInfo:
    """A task or objective function with documents of its own.

    Attributes:
        name: its name in lm-eval, or the name of the objective function (`module:function`).
        kind: `multiple_choice`, `loglikelihood`, `loglikelihood_rolling`, `generate_until`,
            `function` or `rows`.
        documents: number of documents; their ids are 0 .. documents - 1.
        metrics: metric key -> properties. The key is the metric's name, with the filter's name
            appended (`exact_match,strict-match`) if the task has several filters. Every task of
            lm-eval also has `nll`, which we compute; those that generate texts, `tokens`.
        dataset, dataset_config: the names of the data set and of its configuration.
        task_splits: lm-eval's splits that the task has -> their names in the data set.
        task_split: the one that the documents come from.
        repeats, is_sampled: number of texts for each document, and whether these are drawn.
        filters: the names of the task's filters; lm-eval's default one, `none`, takes the first
            text.
        shows_images: whether the model sees images; such a task is scored by lm-eval's own class.
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
    filters: tuple[str, ...] = ()
    shows_images: bool = False

    def filtered(self) -> Iterator[tuple[str, str, str]]:
        """Yield the name, the filter and the key of each metric."""
        for key in self.metrics:
            metric, _, label = key.partition(",")
            yield metric, label or (self.filters[0] if len(self.filters) == 1 else "none"), key

    @property
    def generates(self) -> bool:
        """Whether models answer by texts."""
        return self.kind == "generate_until"

    @property
    def source(self) -> str:
        """Task and split of the documents; in equal sources, equal ids are the same document."""
        return f"{self.name}:{self.task_split}" if self.task_split else self.name


class Average(NamedTuple):
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

    tasks: tuple[str, ...]
    averages: Mapping[str, Average]
    metrics: Mapping[str, MetricInfo]


@dataclass(frozen=True)
class TasksInfo:
    """All tasks and functions that the objectives name, those inside of groups too, and groups."""

    tasks: Mapping[str, TaskInfo]
    groups: Mapping[str, GroupInfo]

    def metric(self, task: str, metric: str, where: str = "objectives") -> tuple[str, MetricInfo]:
        """Return the key and the properties of a metric, by its name or key, of a task or group.

        `where` is the key of the search file that names it.

        Raises:
            ConfigError: the task has no such metric, or has it under several filters.
        """
        metrics = (self.groups.get(task) or self.tasks[task]).metrics
        named = task if task in self.groups else self.tasks[task].name
        for name in (metric, metric.removesuffix(",none")):
            if name in metrics:
                return name, metrics[name]
        if filtered := [key for key in metrics if key.split(",")[0] == metric]:
            raise ConfigError(
                f"{where}: metric {metric!r} of task {named!r} exists with several filters; "
                f"name one of {', '.join(filtered)}."
            )
        raise ConfigError(
            f"{where}: task {named!r} has no metric {metric!r}; it has "
            f"{', '.join(sorted(metrics)) or 'none'}.{did_you_mean(metric, metrics)}"
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
        """Return group -> metric key -> average over its tasks; those not scored are left out.

        `aggregates` has task -> metric key -> aggregate over documents; `sizes` the numbers of
        documents.
        """
        result: dict[str, dict[str, float]] = {}
        for name, group in self.groups.items():
            for metric, average in group.averages.items():
                keys = [(t, key) for t, key in average.keys if key in aggregates.get(t, {})]
                weights = [sizes[task] if average.by_size else 1 for task, _ in keys]
                if keys:
                    pairs = zip(keys, weights, strict=True)
                    total = sum(aggregates[task][key] * weight for (task, key), weight in pairs)
                    result.setdefault(name, {})[metric] = total / sum(weights)
        return result


def describe(tasks: Mapping[str, Any], groups: Mapping[str, Group], measure: Measure) -> TasksInfo:
    """Return the properties of loaded lm-eval tasks and groups, by the objectives' names.

    `measure` returns the metrics of a document, from the name of its task and its requests.
    """
    info = {name: _task_info(name, task, measure) for name, task in tasks.items()}
    return TasksInfo(info, {name: _group_info(group, info) for name, group in groups.items()})


def _task_info(name: str, task: Any, measure: Measure) -> TaskInfo:
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
