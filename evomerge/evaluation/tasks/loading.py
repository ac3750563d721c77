"""Loading lm-eval's tasks and groups by name, and refusing those that cannot be scored."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

from evomerge.compat.lm_eval import Group, load_tasks
from evomerge.errors import ConfigError, did_you_mean, one_line
from evomerge.models.references import is_folder
from evomerge.trust.code import has_script

_State: TypeAlias = tuple[tuple[str, int, int], ...]
_CODE_EVAL = "HF_ALLOW_CODE_EVAL"
_CODE = (
    "runs code that the model writes; read in docs/evaluation.md what the processes in which it "
    "runs may do, then allow it with --allow-code"
)


def task_manager(include: Sequence[str], tasks: Sequence[str], where: str) -> Any:
    """Return an lm-eval `TaskManager` that knows the tasks and groups that the key `where` names.

    lm-eval's built-in tasks are indexed only if one of them is needed, since that takes seconds.

    Raises:
        ConfigError: there is no such task or folder.
    """
    from lm_eval.tasks import TaskManager

    for folder in include:
        if not is_folder(Path(folder)):
            raise ConfigError(
                f"evaluation.include: {folder!r} is not a folder; name a folder with task "
                "YAML, seen from the folder of the search file."
            )
    folders = tuple((folder, _state(Path(folder))) for folder in include)
    for defaults in (False, True) if include else (True,):
        manager = _indexed(TaskManager, folders, defaults)
        missing = [name for name in tasks if name not in manager.all_tasks]
        if not missing:
            return manager
    raise ConfigError(
        f"{where}: there is no task {missing[0]!r} in lm-eval"
        f"{' or in ' + ', '.join(include) if include else ''}; put its YAML into a folder "
        f"named in evaluation.include.{did_you_mean(missing[0], manager.all_tasks)}"
    )


@lru_cache(maxsize=2)
def _indexed(kind: Any, folders: tuple[tuple[str, _State], ...], defaults: bool) -> Any:
    """Return a `TaskManager`, which is kept for other searches with the same files."""
    include = [folder for folder, _ in folders]
    return kind(include_path=include or None, include_defaults=defaults)


def _state(folder: Path) -> _State:
    """Return what changes if a file of a folder is added, removed or written again."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return tuple((str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in files)


@contextmanager
def _code_may_load(allow_code: bool) -> Iterator[None]:
    """While the context is open, Hugging Face's `code_eval` runs if code is allowed.

    lm-eval's code tasks try it when they are imported.

    Raises:
        ConfigError: a script in the working folder would run in its place.
    """
    if allow_code and has_script("code_eval"):
        raise ConfigError(
            "The script `code_eval` in the working folder would run in place of Hugging Face's "
            "metric of this name; start evomerge in another folder."
        )
    before = dict(os.environ)
    os.environ |= {_CODE_EVAL: "1"} if allow_code else {}
    try:
        yield
    finally:
        os.environ.pop(_CODE_EVAL, None)
        os.environ |= {key: value for key, value in before.items() if key == _CODE_EVAL}


@dataclass(frozen=True)
class TaskLoader:
    """Loads tasks with the few-shot examples and the generation of a search; see `Harness`.

    Groups may have tasks of lm-eval if one of `names`, the tasks of the search, is lm-eval's.
    """

    include: Sequence[str]
    fewshot: int | None = None
    generation: Mapping[str, Any] = field(default_factory=dict)
    allow_code: bool = False
    names: Sequence[str] = ()

    def load(
        self, name: str, where: str, changes: Mapping[str, str] | None = None
    ) -> tuple[dict[str, Any], dict[str, Group]]:
        """Return lm-eval's objects by name: a task, or a group and its tasks.

        `where` is the key of the search file that asks for it; `changes` has other values of some
        keys of a task.

        Raises:
            ConfigError: it cannot be loaded or scored.
        """
        changed = {"group": "changed", "task": [{"task": name, **(changes or {})}]}
        try:
            with _code_may_load(self.allow_code):
                manager = task_manager(self.include, [*self.names, name], where)
                tasks, groups = load_tasks(manager, changed if changes else name)
        except (ConfigError, KeyboardInterrupt):
            raise
        except BaseException as error:  # a SystemExit in a task's code would end evomerge silently
            if "code_eval" in str(error).lower() and not self.allow_code:
                raise ConfigError(f"{where}: task {name!r} {_CODE}.") from error
            raise ConfigError(
                f"{where}: task {name!r} could not be loaded: {type(error).__name__}: "
                f"{one_line(error).rstrip('.')}; check its YAML and that its data set can be "
                f"reached (relative `data_files` start where you give the command: {Path.cwd()})."
            ) from error
        if name not in tasks and name not in groups:
            raise ConfigError(
                f"{where}: {name!r} is a set of tasks (a tag) without a score of its own; list "
                f"the tasks one by one: {', '.join(sorted(tasks))}."
            )
        for task in tasks.values():
            if self.generation and task.get_config("output_type") == "generate_until":
                generation = dict(self.generation)
                task.set_config(key="generation_kwargs", value=generation, update=True)
            own_shots = task.get_config("num_fewshot")
            shots = own_shots if self.fewshot is None or own_shots == 0 else self.fewshot
            task.set_config(key="num_fewshot", value=shots or 0)
            check_task(task, where, self.allow_code)
        return tasks, groups


def check_task(task: Any, where: str, allow_code: bool) -> None:
    """Raise a ConfigError unless a task can be scored, with the few-shot examples that it shows."""
    name, kind = task.get_config("task"), task.get_config("output_type")
    options = task.get_config("generation_kwargs") or {}
    code = next((key for key in ("custom_generate", "trust_remote_code") if key in options), None)
    problems = {
        f"has generation_kwargs with {code!r}, which runs code from elsewhere; remove it": code,
        "has generation_kwargs with 'max_time', so its scores would depend on the speed of the "
        "machine; remove it, and set max_gen_toks": options.get("max_time") is not None,
        "needs sound; only texts and images are scored": task.get_config("doc_to_audio"),
        f"shows images, and lm-eval does not offer its output_type {kind!r} with them; let the "
        "model write its answer (`output_type: generate_until`)": shows_images(task)
        and kind != "generate_until",
        _CODE: runs_code(task) and not allow_code,
    }
    for problem, is_so in problems.items():
        if is_so:
            raise ConfigError(f"{where}: task {name!r} {problem}.")
    count = task.get_config("num_fewshot")
    if not count:
        return
    documents, reason = 0, ""
    try:  # lm-eval would find out when it makes the first prompt
        examples = task.fewshot_docs()
        documents = len(examples) if hasattr(examples, "__len__") else len(list(examples))
    except Exception as error:  # a task may raise anything here
        reason = f" ({one_line(error)})"
    if count > documents - (task.get_config("fewshot_split") == task.get_config("test_split")):
        raise ConfigError(
            f"{where}: task {name!r} is to show {count} few-shot examples, but has {documents} "
            f"documents for them{reason}; lower evaluation.fewshot, or num_fewshot in its YAML."
        )


def shows_images(task: Any) -> bool:
    """Return whether a task shows images to the model."""
    return bool(task.get_config("doc_to_image"))


def runs_code(task: Any) -> bool:
    """Return whether a task says that it runs code which the model writes."""
    return bool(getattr(task, "UNSAFE_CODE", False) or task.get_config("unsafe_code"))
