"""Properties of tasks and groups: number of documents, metrics and their directions."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from evomerge.errors import ConfigError, did_you_mean
from evomerge.scores import Objective


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


def sampling_note(sampled: Mapping[str, int]) -> str | None:
    """Return a sentence about texts drawn at random (task -> number for a document), or None."""
    if not sampled:
        return None
    texts = ", ".join(f"{task} ({count} for each document)" for task, count in sampled.items())
    return (
        f"Texts are drawn at random: {texts}. Their seeds come from the search file, so evomerge "
        "repeats these scores, but lm_eval draws other texts, so its scores differ by chance."
    )
