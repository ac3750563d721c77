"""Noticing that a task has changed since a run began."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

from evomerge.config.frozen import Documents, frozen_splits
from evomerge.config.schema import SearchConfig
from evomerge.errors import ConfigError
from evomerge.scores import Split
from evomerge.setup.code_files import code_files
from evomerge.trust.consent import CodeFile, name_files

if TYPE_CHECKING:
    from evomerge.evaluation.evaluator import Evaluator

Digests: TypeAlias = dict[str, dict[str, dict[str, str]]]
"""Split -> task -> name of what was digested (see `Harness.digests`) -> digest."""

_NAMES = {"settings": "settings", "templates": "templates", "examples": "few-shot examples"}
"""Name of a digest -> name for a person; all others are of one split."""


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


def code_digests(config: SearchConfig) -> list[str]:
    """Return the digests of the files with code of all lm-eval tasks, without installed ones.

    A function of a task may call others of its file, so the whole file counts.

    Raises:
        ConfigError: a file cannot be read.
    """
    return sorted({file.digest for file in _code_of_tasks(config)})


def check_tasks(config: SearchConfig, evaluator: Evaluator) -> None:
    """Check that the tasks are those that a run began with.

    Runs of versions that froze no digests are not checked.

    Args:
        config: the frozen search file.
        evaluator: the tasks as they are now.

    Raises:
        ConfigError: documents, prompts, settings or code of a task have changed.
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
    check_code(config)


def check_code(config: SearchConfig) -> None:
    """Check that the code of the tasks is that which a run began with, if the run keeps digests.

    Raises:
        ConfigError: it is not.
    """
    frozen = config.frozen.code if config.frozen else None
    if frozen is None:
        return
    files = _code_of_tasks(config)
    if {file.digest for file in files} != set(frozen):
        changed = [file.path for file in files if file.digest not in frozen]
        where = f": {name_files(changed)}" if changed else ""
        raise ConfigError(
            f"The code of the tasks has changed since the run began{where}; restore its files, or "
            "start a new run."
        )


def _code_of_tasks(config: SearchConfig) -> list[CodeFile]:
    return [file for file in code_files(config, functions=False) if file.path.suffix != ".yaml"]


def _named(what: str, split: str) -> str:
    return _NAMES.get(what, f"{split} {what}")
