"""What a run keeps of its tasks, by which it notices that a task has changed since it began."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from evomerge.config.frozen import Documents
from evomerge.config.schema import Frozen, SearchConfig
from evomerge.errors import ConfigError
from evomerge.scores import SPLITS, Split
from evomerge.setup.tasks import leaves_of

if TYPE_CHECKING:
    from evomerge.evaluation.evaluator import Evaluator
    from evomerge.evaluation.tasks.info import TaskInfo

Digests: TypeAlias = dict[str, dict[str, dict[str, str]]]
"""Split -> task -> name of what was digested (see `Harness.digests`) -> digest."""

_DATASET = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)

_NAMES = {
    "settings": "settings",
    "templates": "templates",
    "examples": "few-shot examples",
}
"""Name of a digest -> name for a person; all others are of one split."""


def task_digests(evaluator: Evaluator, splits: Mapping[Split, Documents]) -> Digests:
    """Return the digests of all lm-eval tasks, and of objectives with rows of a file.

    An objective function has none, since it gets only the ids of documents.
    """
    found: Digests = {}
    for split, documents in splits.items():
        harness, functions = evaluator.tasks_of(split).harness, evaluator.tasks_of(split).functions
        own: dict[str, dict[str, str]] = {}
        for task, ids in documents.items():
            if not ids:
                continue
            if task in functions:
                own[task] = functions[task].digests
            elif harness is not None:
                own[task] = harness.digests(task, ids)
        if harness is not None or any(own.values()):
            found[split] = {task: digests for task, digests in own.items() if digests}
    return found


def _infos(config: SearchConfig, evaluator: Evaluator) -> dict[str, dict[str, TaskInfo]]:
    """Return what is known of the tasks that have documents: split -> task -> its information."""
    infos = {split: evaluator.tasks_of(split).info for split in SPLITS}
    return {
        split: {task: info.tasks[task] for task in leaves_of(config, info)}
        for split, info in infos.items()
    }


def sources(config: SearchConfig, evaluator: Evaluator) -> dict[str, dict[str, str]]:
    """Return the source of the document ids: split -> task -> `lm-eval task:its split`."""
    return {
        split: {name: task.source for name, task in tasks.items()}
        for split, tasks in _infos(config, evaluator).items()
    }


def sampled(config: SearchConfig, evaluator: Evaluator) -> dict[str, int]:
    """Return the tasks that sample their texts, with the number of texts for each document."""
    return {
        name: task.repeats
        for tasks in _infos(config, evaluator).values()
        for name, task in tasks.items()
        if task.is_sampled
    }


def datasets(config: SearchConfig, evaluator: Evaluator) -> dict[str, dict[str, dict[str, str]]]:
    """Return the data sets on the Hub that documents come from: split -> task -> `HubDataset`.

    A data set in local files is left out.
    """
    return {
        split: {name: found for name, task in tasks.items() if (found := _hub_dataset(task))}
        for split, tasks in _infos(config, evaluator).items()
    }


def _hub_dataset(task: TaskInfo) -> dict[str, str]:
    """Return what names a task's data set on the Hub; nothing if it is not there.

    A name without an owner may be a kind of local files (`json`), so it is not taken as an id.
    """
    if not _DATASET.fullmatch(task.dataset) or Path(task.dataset).exists():
        return {}
    split = task.task_splits.get(task.task_split, "")
    named = {"id": task.dataset, "config": task.dataset_config, "split": split}
    return {key: value for key, value in named.items() if value}


def check_tasks(config: SearchConfig, evaluator: Evaluator) -> None:
    """Raise a `ConfigError` if documents, prompts or settings of a task have changed."""
    frozen, splits = config.frozen or Frozen(), config.run_documents
    source_now = sources(config, evaluator)
    for split, documents in splits.items():
        for task, ids in documents.items():
            source = frozen.sources.get(split, {}).get(task)
            count = evaluator.tasks_of(split).info.tasks[task].documents
            if source not in (None, source_now[split].get(task)) or max(ids, default=0) >= count:
                raise ConfigError(
                    f"The run's {split} documents of task {task!r} come from {source or task!r}, "
                    f"with ids up to {max(ids)}, but the task now has {count} documents from "
                    f"{source_now[split].get(task)!r}; restore its YAML and data, or start a new "
                    "run."
                )
    now: Mapping[str, dict[str, dict[str, str]]] = task_digests(evaluator, splits)
    for where, of_split in frozen.tasks.items():
        for task, digests in of_split.items():
            for what, digest in digests.items():
                if now.get(where, {}).get(task, {}).get(what) != digest:
                    files = "files" if task in config.rows else "YAML and data"
                    raise ConfigError(
                        f"Task {task!r} has changed since the run began: its "
                        f"{_NAMES.get(what, f'{where} {what}')} are not the same; restore its "
                        f"{files}, or start a new run."
                    )
