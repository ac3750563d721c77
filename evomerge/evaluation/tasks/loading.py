"""Loading lm-eval's tasks and groups by name.

What this file uses of lm-eval, 0.4.10 and newer: `TaskManager(include_path, include_defaults)`,
`.all_tasks`; of a `Task`: `task_name`, `dataset`, `get_config`; to load tasks
`TaskManager.load(names)` (from 0.4.12) or `lm_eval.tasks.get_task_dict(names, manager)` (before).
Both are given a name, or a group that contains a dictionary: the name of a task and keys to change.
All versions accept such a dictionary inside of a group only. `templates.py` replaces
`lm_eval.utils.env`, which makes templates.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

from evomerge.errors import ConfigError, did_you_mean, one_line
from evomerge.evaluation.tasks.templates import templates_in_sandbox
from evomerge.trust.files import NotAllowedError, check_allowed
from evomerge.trust.task_files import files_of_metric, files_of_tasks

_State: TypeAlias = tuple[tuple[str, int, int], ...]
_CODE_EVAL = "HF_ALLOW_CODE_EVAL"
_OTHER_INPUTS = ("doc_to_image", "doc_to_audio")


def task_manager(include: list[str], tasks: Sequence[str], where: str) -> Any:
    """Return an lm-eval `TaskManager` that knows the given tasks.

    lm-eval's built-in tasks are indexed only if one of them is needed, since that takes seconds.

    Args:
        include: folders with task YAML.
        tasks: names of tasks or groups.
        where: the key of the search file that names them.

    Raises:
        ConfigError: there is no such task.
    """
    from lm_eval.tasks import TaskManager

    folders = tuple((folder, _state(Path(folder))) for folder in include)
    if include:
        manager = _indexed(TaskManager, folders, False)
        if all(name in manager.all_tasks for name in tasks):
            return manager
    manager = _indexed(TaskManager, folders, True)
    for name in tasks:
        if name not in manager.all_tasks:
            raise ConfigError(
                f"{where}: there is no task {name!r} in lm-eval"
                f"{' or in ' + ', '.join(include) if include else ''}; put its YAML into a folder "
                f"named in evaluation.include.{did_you_mean(name, manager.all_tasks)}"
            )
    return manager


@lru_cache(maxsize=2)
def _indexed(kind: Any, folders: tuple[tuple[str, _State], ...], defaults: bool) -> Any:
    """Return a `TaskManager`, which is kept for other stages and searches with the same files."""
    include = [folder for folder, _ in folders]
    return kind(include_path=include or None, include_defaults=defaults)


def _state(folder: Path) -> _State:
    """Return what changes if a file of a folder is added, removed or written again."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return tuple((str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in files)


@contextmanager
def _code_may_load(allow_code: bool) -> Iterator[None]:
    """While the context is open, Hugging Face's `code_eval` runs if code is allowed.

    lm-eval's code tasks try it with a program of their own when they are imported.

    Raises:
        ConfigError: a script in the working folder would run in its place.
    """
    before = os.environ.get(_CODE_EVAL)
    if allow_code:
        for script in files_of_metric("code_eval"):
            raise ConfigError(
                f"{script} would run in place of Hugging Face's metric `code_eval`; start evomerge "
                "in another folder."
            )
        os.environ[_CODE_EVAL] = "1"
    try:
        yield
    finally:
        if allow_code and before is None:
            os.environ.pop(_CODE_EVAL, None)
        elif allow_code and before is not None:
            os.environ[_CODE_EVAL] = before


def load(
    manager: Any,
    spec: str | dict[str, Any],
    where: str,
    include: Sequence[str] = (),
    *,
    allow_code: bool = False,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return lm-eval's task objects and groups, by name.

    Args:
        manager: a `TaskManager`.
        spec: the name of a task or group, or a group of one task whose keys are changed.
        where: the key of the search file that asks for it.
        include: the folders with task YAML that the manager knows.
        allow_code: whether the task may run code that the model writes.

    Raises:
        ConfigError: lm-eval cannot load it, or its own code was not allowed (`evomerge.trust`).
    """
    name = spec if isinstance(spec, str) else spec["task"][0]["task"]
    try:
        for file in files_of_tasks([name], [Path(folder) for folder in include]):
            check_allowed(file)
        with templates_in_sandbox(), _code_may_load(allow_code):
            tasks, groups = _load(manager, spec)
    except ConfigError:
        raise
    except NotAllowedError as error:
        raise ConfigError(
            f"{where}: the code of task {name!r} was not allowed ({error}); read it, then allow it "
            "with --trust-code."
        ) from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a SystemExit in a task's code would end evomerge silently
        if "code_eval" in str(error).lower() and not allow_code:
            raise _code_refused(name, where) from error
        raise ConfigError(
            f"{where}: task {name!r} could not be loaded: {type(error).__name__}: "
            f"{one_line(error).rstrip('.')}; check its YAML and that its data set can be "
            f"reached from here."
        ) from error
    return tasks, groups


def _load(manager: Any, spec: str | dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    tasks: dict[str, Any] = {}
    groups: dict[str, Any] = {}
    if hasattr(manager, "load"):
        loaded = manager.load([spec])
        # Since 0.5 lm-eval names a task of a group `group::task`.
        tasks = {task.task_name: task for task in loaded["tasks"].values()}
        groups = dict(loaded.get("groups", {}))
    else:
        from lm_eval.tasks import get_task_dict

        _flatten(get_task_dict([spec], manager), tasks, groups)
    for task in tasks.values():
        getattr(task, "dataset", None)  # since 0.5 loaded when it is first asked for
    return tasks, groups


def _flatten(tree: Mapping[Any, Any], tasks: dict[str, Any], groups: dict[str, Any]) -> list[str]:
    """Add the tasks and groups of the nested dictionary of lm-eval before 0.4.12.

    Returns:
        the names of all tasks in the tree.
    """
    names: list[str] = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            below = _flatten(value, tasks, groups)
            label = getattr(key, "group_name", key)
            groups[label] = {
                "tasks": below,
                "averages": (getattr(key, "config", None) or {}).get("aggregate_metric_list"),
            }
            names += below
        else:
            tasks[key] = value
            names.append(key)
    return names


def check_fewshot(task: Any, where: str) -> None:
    """Check that a task has as many documents for few-shot examples as it is to show.

    Raises:
        ConfigError: it has fewer. lm-eval would find out when it makes the first prompt.
    """
    count = task.get_config("num_fewshot")
    if not count:
        return
    try:
        found = task.fewshot_docs()
        documents = len(found) if hasattr(found, "__len__") else sum(1 for _ in found)
    except Exception as error:  # a task may raise anything here
        raise ConfigError(
            f"{where}: task {task.get_config('task')!r} cannot give {count} few-shot examples "
            f"({one_line(error)}); set evaluation.fewshot to 0."
        ) from error
    is_scored = task.get_config("fewshot_split") == task.get_config("test_split")
    if count > documents - is_scored:
        raise ConfigError(
            f"{where}: task {task.get_config('task')!r} is to show {count} few-shot examples, but "
            f"has {documents} documents for them; lower evaluation.fewshot, or num_fewshot in the "
            "task's YAML."
        )


def refuse_unsupported(task: Any, where: str, allow_code: bool) -> None:
    """Check that a task can be scored.

    Args:
        task: an lm-eval task.
        where: the key of the search file that names it.
        allow_code: whether it may run code that the model writes.

    Raises:
        ConfigError: the task needs images or sound, runs code that the model writes, would
            generate texts with code from elsewhere, or in a limited time.
    """
    name = task.get_config("task")
    options = task.get_config("generation_kwargs") or {}
    if named := [key for key in ("custom_generate", "trust_remote_code") if key in options]:
        raise ConfigError(
            f"{where}: the generation_kwargs of task {name!r} have {named[0]!r}, which would run "
            "code from elsewhere; remove it."
        )
    if options.get("max_time") is not None:
        raise ConfigError(
            f"{where}: the generation_kwargs of task {name!r} have 'max_time', so its scores would "
            "depend on the speed of the machine; remove it, and set max_gen_toks."
        )
    if getattr(task, "MULTIMODAL", False) or any(map(task.get_config, _OTHER_INPUTS)):
        raise ConfigError(f"{where}: task {name!r} needs images or sound; only text is scored.")
    if runs_code(task) and not allow_code:
        raise _code_refused(name, where)
    if runs_code(task) and os.name == "nt":
        raise ConfigError(
            f"{where}: task {name!r} runs code that the model writes, for which evomerge needs "
            "Linux or macOS; choose a task that only compares text."
        )


def runs_code(task: Any) -> bool:
    """Return whether a task says that it runs code which the model writes."""
    return bool(getattr(task, "UNSAFE_CODE", False) or task.get_config("unsafe_code"))


def _code_refused(name: str, where: str) -> ConfigError:
    return ConfigError(
        f"{where}: task {name!r} runs code that the model writes; read in docs/evaluation.md what "
        "the processes in which it runs may do, then allow it with --allow-code."
    )
