"""Noticing that a task has changed since a run began."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

from evomerge.config.frozen import Documents, frozen_splits
from evomerge.config.schema import SearchConfig
from evomerge.errors import ConfigError
from evomerge.scores import Split

if TYPE_CHECKING:
    from evomerge.evaluation.evaluator import Evaluator

Digests: TypeAlias = dict[str, dict[str, dict[str, str]]]
"""Split -> task -> `documents`, `prompts` or `settings` -> digest."""


def task_digests(evaluator: Evaluator, splits: Mapping[Split, Documents]) -> Digests:
    """Return the digests of all lm-eval tasks.

    An objective function has none, since it gets only the ids of documents.

    Args:
        evaluator: the tasks.
        splits: split -> task -> document ids.
    """
    found: Digests = {}
    for split, documents in splits.items():
        harness, functions = evaluator.tasks_of(split).harness, evaluator.tasks_of(split).functions
        if harness is not None:
            found[split] = {
                task: harness.digests(task, ids)
                for task, ids in documents.items()
                if task not in functions and ids
            }
    return found


def check_tasks(config: SearchConfig, evaluator: Evaluator) -> None:
    """Check that the tasks are those that a run began with.

    Runs of versions that froze no digests are not checked.

    Args:
        config: the frozen search file.
        evaluator: the tasks as they are now.

    Raises:
        ConfigError: documents, prompts or settings of a task have changed.
    """
    frozen = config.frozen.tasks if config.frozen else {}
    if not frozen:
        return
    now = task_digests(evaluator, frozen_splits(config))
    for split, of_split in frozen.items():
        for task, digests in of_split.items():
            for what, digest in digests.items():
                if now.get(split, {}).get(task, {}).get(what) != digest:
                    raise ConfigError(
                        f"Task {task!r} has changed since the run began: its {_named(what, split)} "
                        "are not the same; restore its YAML and data, or start a new run."
                    )


def _named(what: str, split: str) -> str:
    return "settings" if what == "settings" else f"{split} {what}"
