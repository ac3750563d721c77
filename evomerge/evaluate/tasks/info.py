"""What a task offers, known before any model runs: documents, metrics, directions, groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from evomerge.errors import ConfigError, did_you_mean

PARTS = ("training", "validation", "test")
"""What lm-eval calls the splits of a task."""


@dataclass(frozen=True)
class MetricFacts:
    """One metric of a task.

    Attributes:
        higher_is_better: the metric's own direction.
        is_mean: whether the score is the mean of one value a document, so that some documents
            tell about all (`acc` is; `f1`, a perplexity, a group's average are not).
    """

    higher_is_better: bool
    is_mean: bool


@dataclass(frozen=True)
class TaskFacts:
    """A task that asks documents.

    Attributes:
        name: the name it is known by in lm-eval, or `module:function` of an own objective.
        kind: `multiple_choice`, `loglikelihood`, `loglikelihood_rolling`, `generate_until` or
            `function`.
        documents: how many documents it has; their ids are 0 .. documents - 1.
        metrics: metric key -> facts. The key is the metric's name, with its filter
            (`exact_match,strict-match`) where the task has several filters.
        dataset: the data set that the documents come from.
        parts: lm-eval's splits (`training`, `validation`, `test`) that the task has -> what its
            data set calls them.
        part: which of them the documents come from.
    """

    name: str
    kind: str
    documents: int
    metrics: Mapping[str, MetricFacts]
    dataset: str = ""
    parts: Mapping[str, str] = field(default_factory=dict)
    part: str = ""

    @property
    def source(self) -> str:
        """Task and split that the documents come from; equal sources have equal ids."""
        return f"{self.name}:{self.part}" if self.part else self.name


@dataclass(frozen=True)
class GroupFacts:
    """A group that averages its tasks.

    Attributes:
        tasks: names of all tasks below it.
        averages: metric key -> whether the tasks count by their number of documents.
        metrics: metric key -> facts (never a mean: a group has no documents).
    """

    name: str
    tasks: tuple[str, ...]
    averages: Mapping[str, bool]
    metrics: Mapping[str, MetricFacts]


@dataclass(frozen=True)
class Facts:
    """All that the objectives' tasks offer.

    Attributes:
        tasks: name -> facts of every task that asks documents, those inside groups included.
        groups: name -> facts of every group.
    """

    tasks: Mapping[str, TaskFacts]
    groups: Mapping[str, GroupFacts]

    def metric(self, task: str, metric: str, where: str = "objectives") -> tuple[str, MetricFacts]:
        """Return a metric's key and its facts.

        Args:
            task: a task or group.
            metric: the metric's name or key.
            where: the key of the search file that asks for it.

        Raises:
            ConfigError: the task has no such metric, or has it under several filters.
        """
        offered = (self.groups.get(task) or self.tasks[task]).metrics
        if metric in offered:
            return metric, offered[metric]
        plain = metric.removesuffix(",none")
        if plain in offered:
            return plain, offered[plain]
        filtered = [key for key in offered if key.split(",")[0] == metric]
        if filtered:
            raise ConfigError(
                f"{where}: metric {metric!r} of task {task!r} comes with several filters; "
                f"name one of {', '.join(filtered)}."
            )
        name = task if task in self.groups else self.tasks[task].name
        raise ConfigError(
            f"{where}: task {name!r} has no metric {metric!r}; it has "
            f"{', '.join(sorted(offered)) or 'none'}.{did_you_mean(metric, offered)}"
        )

    def leaves(self, name: str) -> tuple[str, ...]:
        """Return the tasks that a task or group name stands for."""
        return self.groups[name].tasks if name in self.groups else (name,)


def describe(tasks: Mapping[str, Any], groups: Mapping[str, Any]) -> Facts:
    """Return the facts of lm-eval's loaded tasks and groups.

    Args:
        tasks: by the name that objectives know them by, which need not be lm-eval's.
        groups: the same.
    """
    facts = {name: _task_facts(name, task) for name, task in tasks.items()}
    return Facts(facts, {name: _group_facts(name, group, facts) for name, group in groups.items()})


def _task_facts(name: str, task: Any) -> TaskFacts:
    direction = task.higher_is_better()
    kind = str(task.get_config("output_type") or task.OUTPUT_TYPE)
    metrics = {
        key: MetricFacts(
            higher_is_better=bool(direction.get(key.split(",")[0], True)),
            is_mean=_is_mean(task.aggregation().get(key.split(",")[0]), value),
        )
        for key, value in _probe(task).items()
    }
    named = {part: task.get_config(f"{part}_split") for part in PARTS}
    parts = {part: str(own) for part, own in named.items() if own}
    return TaskFacts(
        name=str(task.get_config("task") or name),
        kind=kind,
        documents=len(task.eval_docs),
        metrics=metrics,
        dataset=str(task.get_config("dataset_path") or ""),
        parts=parts,
        part=next((part for part in ("test", "validation") if part in parts), ""),
    )


def _is_mean(aggregation: Any, value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return False
    try:
        return aggregation is None or bool(aggregation([0.0, 0.0, 1.5]) == 0.5)
    except Exception:  # made for other values
        return False


def _probe(task: Any) -> dict[str, Any]:
    """Return metric key -> a value of the first document, from made-up answers."""
    made_up = {"loglikelihood": (-1.0, False), "loglikelihood_rolling": -1.0}
    shots = task.get_config("num_fewshot")
    values: dict[str, Any] = {}
    try:
        task.set_config(key="num_fewshot", value=0)
        task.build_all_requests(samples=[0])
        for instance in task.instances:
            instance.resps = [made_up.get(instance.request_type, "")] * instance.repeats
        task.apply_filters()
        filters = list(task.instances[0].filtered_resps)
        for label in filters:
            answers = [instance.filtered_resps[label] for instance in task.instances]
            results = task.process_results(task.instances[0].doc, answers)
            suffix = f",{label}" if len(filters) > 1 else ""
            values |= {f"{metric}{suffix}": value for metric, value in results.items()}
    except Exception:  # a task's own code need not like made-up answers
        return dict.fromkeys(task.aggregation(), 0.0)
    finally:
        task.set_config(key="num_fewshot", value=shots)
    return values


def _group_facts(name: str, group: Any, tasks: Mapping[str, TaskFacts]) -> GroupFacts:
    if isinstance(group, Mapping):  # lm-eval before 0.4.12
        below, configured = tuple(group["tasks"]), group["averages"] or []
    else:
        below = tuple(task.task_name for task in group.get_all_tasks())
        configured = [vars(item) for item in group.aggregate_metric_list or []]
    averages: dict[str, bool] = {}
    metrics: dict[str, MetricFacts] = {}
    for item in configured:
        for key, facts in (pair for task in below for pair in tasks[task].metrics.items()):
            metric, _, label = key.partition(",")
            wanted = item.get("filter_list")
            if metric == item["metric"] and (wanted is None or (label or "none") in wanted):
                averages[key] = bool(item.get("weight_by_size"))
                metrics[key] = MetricFacts(facts.higher_is_better, is_mean=False)
    return GroupFacts(name, below, averages, metrics)
