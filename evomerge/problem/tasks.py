"""The tasks of a search file: their metrics, the documents of every split, and their digests."""

import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeAlias

from evomerge.config.objectives import MeasuredConfig
from evomerge.config.record import Record
from evomerge.config.schema import SearchConfig
from evomerge.errors import ConfigError
from evomerge.evaluation.evaluator import Evaluator
from evomerge.evaluation.tasks.info import TaskInfo, TasksInfo
from evomerge.scores import BASE_TEXTS, MODEL, SPLITS, TOLD, Constraint, Documents, Objective, Split

_DATASET = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)

Size: TypeAlias = int | Literal["all", "auto"]

USUAL = 200
"""Documents of each task that `auto` takes, if there are enough."""


def find_objectives(config: SearchConfig, evaluator: Evaluator) -> tuple[Objective, ...]:
    """Return the objectives with full metric names and directions.

    ConfigError: a task has no such metric, or a task that supplies the documents of a split does
    not have it.
    """
    objectives = []
    for place, section in enumerate(config.objectives):
        metric, higher = _metric(section, evaluator, "objectives")
        if section.goal is not None:
            higher = section.goal == "maximize"
        if section.tie_breaker is not None:
            ties = section.model_copy(update={"metric": section.tie_breaker})
            _metric(ties, evaluator, f"objectives[{place}].tie_breaker")
        objectives.append(section.resolved(metric, higher))
    return tuple(objectives)


def find_constraints(config: SearchConfig, evaluator: Evaluator) -> tuple[Constraint, ...]:
    """Return the constraints with full metric names; ConfigError: as for `find_objectives`."""
    found = [(item, _metric(item, evaluator, "constraints")[0]) for item in config.constraints]
    return tuple(Constraint(i.source, metric, i.at_least, i.at_most) for i, metric in found)


def find_also(config: SearchConfig, evaluator: Evaluator) -> tuple[Objective, ...]:
    """Return what is scored on test documents besides; ConfigError: as for `find_objectives`."""
    found = []
    for place, section in enumerate(config.evaluation.also):
        metric, higher = _metric(section, evaluator, f"evaluation.also[{place}]")
        found.append(Objective(section.source, metric, higher_is_better=higher))
    return tuple(found)


def _metric(item: MeasuredConfig, evaluator: Evaluator, where: str) -> tuple[str, bool]:
    """Return the full name of a metric, and whether higher values are better."""
    if item.source in (MODEL, TOLD):
        return item.metric, item.source == TOLD
    metric, info = evaluator.info.metric(item.source, item.metric, where)
    for split, tasks in evaluator.by_split.items():
        key = f"evaluation.{split}.tasks"
        other, other_info = tasks.info.metric(item.source, metric, key)
        if other != metric or other_info.higher_is_better != info.higher_is_better:
            raise ConfigError(
                f"`{key}`: the task named for {item.source!r} has the metric {other!r} with "
                f"another filter or direction than {metric!r}; name a task with the same metric."
            )
    return metric, info.higher_is_better


def find_splits(config: SearchConfig, evaluator: Evaluator, size: int) -> Mapping[Split, Documents]:
    """Return split -> task -> document ids; no two splits have a document in common.

    `size`: number of documents of each task that a split with `auto` has (`choose_documents`).

    ConfigError: a task has too few documents.
    """

    def pools(split: Split) -> dict[str, DocumentPool]:
        found, tasks = {}, evaluator.tasks_of(split)
        for task in leaves_of(config, tasks.info, split):
            # Documents of different tasks are compared by their rendered text.
            forms = cache(tasks.of(task).forms(task, rendered=bool(evaluator.by_split)))
            info = tasks.info.tasks[task]
            found[task] = DocumentPool(info.source, info.documents, forms, info.dataset)
        return found

    sizes: dict[Split, Size] = {s: getattr(config.evaluation, s).documents for s in SPLITS}
    return choose_documents(sizes, {split: pools(split) for split in SPLITS}, config.seed, size)


def leaves_of(config: SearchConfig, info: TasksInfo, split: Split) -> list[str]:
    """Return the tasks that have documents in a split: named ones, or the members of groups.

    Texts of the base have none before they are written.
    """
    names = config.every_task if split == "test" else config.tasks
    named = (name for name in names if name != BASE_TEXTS)
    return list(dict.fromkeys(task for name in named for task in info.leaves(name)))


def task_digests(
    evaluator: Evaluator, splits: Mapping[Split, Documents]
) -> dict[str, dict[str, str]]:
    """Return split -> task -> digest of what scores depend on beside the model, if there is one."""
    found: dict[str, dict[str, str]] = {}
    for split, documents in splits.items():
        tasks = evaluator.tasks_of(split)
        own = {task: tasks.of(task).digest(task, ids) for task, ids in documents.items() if ids}
        found[split] = {task: digest for task, digest in own.items() if digest}
    return found


def task_facts(config: SearchConfig, evaluator: Evaluator) -> dict[str, dict[str, Any]]:
    """Return where documents come from, and which tasks sample their texts; see `Record`."""
    facts: dict[str, dict[str, Any]] = {"sources": {}, "datasets": {}, "sampled": {}}
    for split in SPLITS:
        info = evaluator.tasks_of(split).info
        tasks = {task: info.tasks[task] for task in leaves_of(config, info, split)}
        facts["sources"][split] = {name: task.source for name, task in tasks.items()}
        data = {name: _hub_dataset(task) for name, task in tasks.items()}
        facts["datasets"][split] = {name: found for name, found in data.items() if found}
        facts["sampled"] |= {name: t.repeats for name, t in tasks.items() if t.is_sampled}
    return facts


def _hub_dataset(task: TaskInfo) -> dict[str, str]:
    """Return what names a task's data set on the Hub; nothing if it is not there.

    A name without an owner may be a kind of local files (`json`), so it is not taken as an id.
    """
    if not _DATASET.fullmatch(task.dataset) or Path(task.dataset).exists():
        return {}
    split = task.task_splits.get(task.task_split, "")
    named = {"id": task.dataset, "config": task.dataset_config, "split": split}
    return {key: value for key, value in named.items() if value}


def check_tasks(record: Record, evaluator: Evaluator) -> None:
    """Raise a `ConfigError` if documents, prompts or settings of a task of a run have changed."""
    sources: Mapping[str, Mapping[str, str]] = task_facts(record.config, evaluator)["sources"]
    for split, documents in record.splits.items():
        tasks, digests = evaluator.tasks_of(split), record.tasks.get(split, {})
        for task, ids in documents.items():
            now, count = sources[split].get(task), tasks.info.tasks[task].documents
            source, origin = record.sources.get(split, {}).get(task, now), tasks.of(task).origin
            if source != now or max(ids, default=0) >= count:
                raise ConfigError(
                    f"The run's {split} documents of task {task!r} come from {source or task!r}, "
                    f"with ids up to {max(ids)}, but the task now has {count} documents from "
                    f"{now!r}; restore its YAML and data, or start a new run."
                )
            if task in digests and digests[task] != tasks.of(task).digest(task, ids):
                raise ConfigError(
                    f"Task {task!r} has changed since the run began: its {split} documents, their "
                    f"prompts or its settings are not the same; restore its {origin}, or start a "
                    "new run."
                )


@dataclass(frozen=True)
class DocumentPool:
    """The documents that can be chosen for a task and a split.

    Attributes:
        source: the task and the split of the task that they come from; in equal sources, equal
            ids are the same document.
        count: number of documents; their ids are 0 .. count - 1.
        forms: document id -> texts by which it is compared. Two documents that have one of them in
            common are the same document.
    """

    source: str
    count: int
    forms: Callable[[int], Sequence[str]] = lambda document: ()
    dataset: str = ""

    def known_as(self, document: int) -> tuple[str, ...]:
        """Return all texts by which a document is compared, its source and id included."""
        return (f"{self.source} {document}", *self.forms(document))

    def users(self, document: int, owners: Mapping[str, Split]) -> set[Split]:
        """Return the splits that use a document; `owners` says whose each text is."""
        return {owners[form] for form in self.known_as(document) if form in owners}


def choose_documents(
    sizes: Mapping[Split, Size],
    pools: Mapping[Split, Mapping[str, DocumentPool]],
    seed: int,
    wanted: int = USUAL,
) -> dict[Split, dict[str, tuple[int, ...]]]:
    """Choose the documents of every split, so that no two splits share one.

    If tasks of one data set have documents in common, a split prefers to use the same ones for each
    of them. (To find these in other data sets, too, hundreds of thousands might be rendered.)

    `sizes` has the number of documents per task; `all` takes every document that the other splits
    do not use, and `auto` the first `wanted` of `USUAL` ones, by which the other splits have the
    same documents whatever is wanted. Together with the names of the tasks, the seed determines the
    choice. The result is split -> task -> ascending ids.

    Raises:
        ConfigError: there are too few documents, or two splits ask for all of them.
    """
    chosen: dict[Split, dict[str, tuple[int, ...]]] = {split: {} for split in sizes}
    owners: dict[str, Split] = {}
    for split in sorted(sizes, key=lambda split: sizes[split] == "all"):
        for task, pool in pools[split].items():
            order, asked = in_order(pool.count, f"{seed}/{task}"), sizes[split]
            sharing = sum(o.source == pool.source for own in pools.values() for o in own.values())
            size = min(USUAL, max(1, pool.count // sharing)) if asked == "auto" else asked
            first = all(pools[split][other].dataset != pool.dataset for other in chosen[split])
            unused = (i for i in order if pool.users(i, owners) <= {split})
            free: Iterable[int] = unused
            if size != "all" and not first:
                free = sorted(unused, key=lambda i: split not in pool.users(i, owners))
            ids = list(free if size == "all" else islice(free, size))
            if len(ids) < (1 if size == "all" else size):
                different = len({pool.known_as(document)[-1] for document in order})
                raise ConfigError(
                    f"`evaluation.{split}.documents` is {size!r}, but {len(ids)} of {pool.count} "
                    f"documents of {pool.source!r} are left for it, since no two splits share one; "
                    f"set it to {max(1, different // sharing)} or less in each split (one may be "
                    "`all`), or take another source (`task_split`, `tasks`)."
                )
            owners |= {form: split for document in ids for form in pool.known_as(document)}
            chosen[split][task] = tuple(sorted(ids))
    for split in (split for split, size in sizes.items() if size == "auto"):
        for task, pool in pools[split].items():
            own, order = set(chosen[split][task]), in_order(pool.count, f"{seed}/{task}")
            kept = [document for document in order if document in own][:wanted]
            chosen[split][task] = tuple(sorted(kept))
    return chosen


def in_order(count: int, key: str) -> list[int]:
    """Return ids 0 .. count - 1 in a random order that depends only on `key`."""
    order = list(range(count))
    random.Random(key).shuffle(order)
    return order
