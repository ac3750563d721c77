"""What a run keeps of its tasks, by which it notices that a task has changed since it began."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

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

_NAMES = {"settings": "settings", "templates": "templates", "examples": "few-shot examples"}
"""Name of a digest -> name for a person; all others are of one split."""


def task_digests(evaluator: Evaluator, splits: Mapping[Split, Documents]) -> Digests:
    """Return the digests of all lm-eval tasks, and of objectives with rows of a file.

    An objective function has none, since it gets only the ids of documents.
    """
    found: Digests = {}
    for split, documents in splits.items():
        tasks, own = evaluator.tasks_of(split), dict[str, dict[str, str]]()
        for task in (task for task, ids in documents.items() if ids):
            if task in tasks.functions:
                own[task] = tasks.functions[task].digests
            elif tasks.harness is not None:
                own[task] = tasks.harness.digests(task, documents[task])
        if tasks.harness is not None or any(own.values()):
            found[split] = {task: digests for task, digests in own.items() if digests}
    return found


def task_facts(config: SearchConfig, evaluator: Evaluator) -> dict[str, dict[str, Any]]:
    """Return where documents come from, and which tasks sample their texts; see `Frozen`."""
    facts: dict[str, dict[str, Any]] = {"sources": {}, "datasets": {}, "sampled": {}}
    for split in SPLITS:
        info = evaluator.tasks_of(split).info
        tasks = {task: info.tasks[task] for task in leaves_of(config, info)}
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


def check_tasks(config: SearchConfig, evaluator: Evaluator) -> None:
    """Raise a `ConfigError` if documents, prompts or settings of a task have changed."""
    frozen, splits = config.frozen or Frozen(), config.run_documents
    sources: Mapping[str, Mapping[str, str]] = task_facts(config, evaluator)["sources"]
    for split, documents in splits.items():
        for task, ids in documents.items():
            now = sources[split].get(task)
            source = frozen.sources.get(split, {}).get(task, now)
            count = evaluator.tasks_of(split).info.tasks[task].documents
            if source != now or max(ids, default=0) >= count:
                raise ConfigError(
                    f"The run's {split} documents of task {task!r} come from {source or task!r}, "
                    f"with ids up to {max(ids)}, but the task now has {count} documents from "
                    f"{now!r}; restore its YAML and data, or start a new run."
                )
    digests: Mapping[str, dict[str, dict[str, str]]] = task_digests(evaluator, splits)
    for where, of_split in frozen.tasks.items():
        for task, then in of_split.items():
            today = digests.get(where, {}).get(task, {})
            for what in (what for what, digest in then.items() if today.get(what) != digest):
                files = "files" if task in config.rows else "YAML and data"
                raise ConfigError(
                    f"Task {task!r} has changed since the run began: its "
                    f"{_NAMES.get(what, f'{where} {what}')} are not the same; restore its "
                    f"{files}, or start a new run."
                )
