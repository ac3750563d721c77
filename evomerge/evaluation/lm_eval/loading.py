"""Loading lm-eval's tasks and groups by name, and refusing those that cannot be scored."""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from evomerge.compat.lm_eval import Group, Index, load_tasks, start_data_beside_yaml
from evomerge.errors import ConfigError, blaming, did_you_mean, one_line
from evomerge.models.references import is_folder
from evomerge.system import needs_posix
from evomerge.trust.code import NOTHING, Permissions, is_installed
from evomerge.trust.task_files import (
    TaskFile,
    find_change,
    find_leaves,
    read_chain,
    read_task_file,
    task_files,
)

_CODE_EVAL = "HF_ALLOW_CODE_EVAL"


@cache
def _built_in(kind: Any) -> Any:
    """Return a `TaskManager` of lm-eval's own tasks, which change with its version only."""
    return kind()


@contextmanager
def _code_may_load(allow_code: bool) -> Iterator[None]:
    """While the context is open, Hugging Face's `code_eval` runs if code is allowed.

    lm-eval's code tasks try it when they are imported.
    """
    before = dict(os.environ)
    os.environ |= {_CODE_EVAL: "1"} if allow_code else {}
    try:
        yield
    finally:
        os.environ.pop(_CODE_EVAL, None)
        os.environ |= {key: value for key, value in before.items() if key == _CODE_EVAL}


def check_folders(include: Iterable[str | Path]) -> None:
    """Raise a ConfigError if one of the folders with task YAML does not exist."""
    for folder in include:
        if not is_folder(Path(folder)):
            raise ConfigError(
                f"evaluation.include: {str(folder)!r} is not a folder; name a folder with task "
                "YAML, seen from the folder of the search file."
            )


class Loaded(NamedTuple):
    """Objects of lm-eval by name, and the tasks whose functions may run text as code."""

    tasks: dict[str, Any]
    groups: dict[str, Group]
    evaluating: frozenset[str]


@dataclass(frozen=True)
class TaskLoader:
    """Loads tasks with the few-shot examples and the generation of a search; see `Harness`.

    Groups may have tasks of lm-eval if one of `names`, the tasks of the search, is lm-eval's.
    """

    include: Sequence[str]
    fewshot: int | None = None
    generation: Mapping[str, Any] = field(default_factory=dict)
    allowed: Permissions = NOTHING
    names: Sequence[str] = ()
    _managers: dict[bool, Any] = field(default_factory=dict)

    def manager(self, tasks: Sequence[str], where: str) -> Any:
        """Return an lm-eval `TaskManager` that knows the tasks and groups that `where` names.

        lm-eval's built-in tasks are indexed only if one of them is needed, since that takes
        seconds.

        Raises:
            ConfigError: there is no such task or folder.
        """
        from lm_eval.tasks import TaskManager

        check_folders(self.include)
        for defaults in (False, True) if self.include else (True,):
            if defaults not in self._managers:
                try:
                    self._managers[defaults] = (
                        start_data_beside_yaml(
                            TaskManager(include_path=[*self.include], include_defaults=defaults)
                        )
                        if self.include
                        else _built_in(TaskManager)
                    )
                except TypeError as error:  # it sorts all names
                    files = map(read_task_file, task_files(map(Path, self.include)))
                    raise _no_name(next(file for file in files if file.misnamed), where) from error
            known = self._managers[defaults].all_tasks
            missing = [name for name in tasks if name not in known]
            if not missing:
                return self._managers[defaults]
            if not defaults:
                self._check_files(missing, where)
        raise ConfigError(
            f"{where}: there is no task {missing[0]!r} in lm-eval"
            f"{' or in ' + ', '.join(self.include) if self.include else ''}; put its YAML into a "
            "folder named in evaluation.include (for `evomerge init` in --include)."
            f"{did_you_mean(missing[0], known)}"
        )

    def _check_files(self, missing: Collection[str], where: str) -> None:
        """Raise a ConfigError if a file without a usable name, or one of a missing task, is broken.

        lm-eval leaves such files out.
        """
        for chain in map(read_chain, task_files(map(Path, self.include))):
            own, lost = chain[0], [path for file in chain for path in file.missing]
            if own.misnamed:
                raise _no_name(own, where)
            if own.name in missing and lost:
                raise ConfigError(
                    f"{where}: task {own.name!r} is in {str(own.path)!r}, which includes "
                    f"{str(lost[0])!r}, and there is no such file; correct `include` in its YAML."
                )

    def load(self, name: str, where: str, changes: Mapping[str, str] | None = None) -> Loaded:
        """Return lm-eval's objects by name: a task, or a group and its tasks.

        `where` is the key of the search file that asks for it; `changes` has other values of some
        keys of a task.

        Raises:
            ConfigError: it cannot be loaded or scored, or its code is not allowed.
        """
        changed = {"group": "changed", "task": [{"task": name, **(changes or {})}]}
        why = (
            f"{where}: task {name!r} could not be loaded: {{error}}; check its YAML and that its "
            "data set can be reached (relative `data_files` start from the folder of the YAML, or "
            f"else where you give the command: {Path.cwd()})."
        )
        # A SystemExit in a task's code would end evomerge silently.
        with blaming(ConfigError, why, BaseException):
            manager = self.manager([*self.names, name], where)
            evaluating = self._look_at(manager, name, where, changes or {})
            with _code_may_load(self.allowed.allow_code):
                tasks, groups = load_tasks(manager, changed if changes else name)
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
            check_task(task, where)
            if evaluates(task) and task.task_name not in evaluating:  # its Python says so
                evaluating |= {self._consented(task.task_name, where, "unsafe_code")}
        return Loaded(tasks, groups, evaluating)

    def _look_at(
        self, manager: Any, name: str, where: str, changes: Collection[str]
    ) -> frozenset[str]:
        """Look at the files of a task or group, before lm-eval imports or loads anything of them.

        Returns:
            The tasks whose functions may run text as code.

        Raises:
            ConfigError: a task may run text as code; or a stranger, or the search file, changes
                what functions of an installed task read. Neither is allowed.
        """
        own = dict.fromkeys(changes, where)
        own |= {"generation_kwargs": "evaluation.generation"} if self.generation else {}
        evaluating = set()
        for leaf in find_leaves(Index(manager), name):
            strange = [file for file in leaf.chain if not is_installed(file.path)]
            self.allowed.require([file.path for file in strange if file.runs])
            reason = next(filter(None, (file.find_evaluation() for file in leaf.chain)), None)
            key = find_change(leaf.chain, {*leaf.changed, *own})
            if key and not self.allowed.trust_code:
                files = ", ".join(map(str, (*leaf.groups, *(file.path for file in strange))))
                raise ConfigError(
                    f"{where}: `{own.get(key) or key}`{f' in {files}' if key not in own else ''} "
                    f"changes what the functions of task {leaf.name!r} read, which "
                    f"{f'may run text as code ({reason})' if reason else 'are those of lm-eval'}; "
                    "remove it, or read it and allow it with --trust-code."
                )
            installed = (file for file in leaf.chain if is_installed(file.path))
            local = next(
                filter(None, (file.find_stand_in(bool(reason)) for file in installed)), None
            )
            if local and not self.allowed.trust_code:
                raise ConfigError(
                    f"{where}: task {leaf.name!r} loads {str(local)!r}, which would be the one in "
                    f"the working folder ({local.resolve()}) and might run code; give the command "
                    "elsewhere, or read it and allow it with --trust-code."
                )
            evaluating |= {self._consented(leaf.name, where, reason)} if reason else set()
        return frozenset(evaluating)

    def _consented(self, task: str, where: str, reason: str) -> str:
        """Return the name of a task that runs text as code; ConfigError: that is not allowed."""
        if self.allowed.allow_code:
            needs_posix(f"{where}: task {task!r} runs code that the model writes, which")
            return task
        raise ConfigError(
            f"{where}: task {task!r} runs code that the model writes, or may do so ({reason}); "
            "read in docs/evaluation.md what the processes in which it runs may do, then allow it "
            "with --allow-code."
        )


def _no_name(file: TaskFile, where: str) -> ConfigError:
    return ConfigError(
        f"{where}: `{file.misnamed}` in {str(file.path)!r} is no text; write it in quotes."
    )


def check_task(task: Any, where: str) -> None:
    """Raise a ConfigError unless a task can be scored, with the few-shot examples that it shows."""
    name, kind = task.get_config("task"), task.get_config("output_type")
    repeats = task.get_config("repeats")
    options = task.get_config("generation_kwargs") or {}
    code = next((key for key in ("custom_generate", "trust_remote_code") if key in options), None)
    problems = {
        f"has generation_kwargs with {code!r}, which runs code from elsewhere; remove it": code,
        "has generation_kwargs with 'max_time', so its scores would depend on the speed of the "
        "machine; remove it, and set max_gen_toks": options.get("max_time") is not None,
        f"has `repeats` {repeats!r}; set it to a whole number of 1 or more": not (
            repeats is None or (type(repeats) is int and repeats >= 1)
        ),
        "needs sound; only texts and images are scored": task.get_config("doc_to_audio"),
        f"shows images, and lm-eval does not offer its output_type {kind!r} with them; let the "
        "model write its answer (`output_type: generate_until`)": shows_images(task)
        and kind != "generate_until",
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


def evaluates(task: Any) -> bool:
    """Return whether a task says that it runs code which the model writes."""
    return bool(getattr(task, "UNSAFE_CODE", False) or task.get_config("unsafe_code"))
