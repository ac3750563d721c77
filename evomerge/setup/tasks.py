"""The tasks of a search file: their code, their metrics and the documents of every split."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.config.evaluation import EvaluationConfig, SearchSplit, TestSplit, ValidationSplit
from evomerge.config.frozen import Documents
from evomerge.config.objectives import ConstraintConfig, ObjectiveConfig
from evomerge.config.schema import SearchConfig
from evomerge.errors import ConfigError, did_you_mean
from evomerge.parsing.values import shown
from evomerge.scores import (
    MODEL,
    MODEL_METRICS,
    NLL,
    SPLITS,
    TOKENS,
    TOLD,
    Constraint,
    Objective,
    Split,
)
from evomerge.trust.consent import NOTHING, Permissions
from evomerge.trust.modules import code_of_module
from evomerge.trust.task_files import code_of_tasks

if TYPE_CHECKING:
    from evomerge.evaluation.evaluator import Evaluator
    from evomerge.evaluation.tasks.functions import ObjectiveFunction
    from evomerge.evaluation.tasks.info import TasksInfo
    from evomerge.evaluation.tasks.rows import RowsObjective


def code_files(config: SearchConfig) -> list[Path]:
    """Return the files, of no installed package, that loading the tasks of a search file runs."""
    supplied = [
        item
        for split in SPLITS
        for name, item in getattr(config.evaluation, split).tasks.items()
        if name not in config.rows
    ]
    names = [*(name for name in config.tasks if name not in config.rows), *supplied]
    found = [file for name in names if ":" in name for file in code_of_module(name.split(":")[0])]
    if lm_eval_tasks(config) or not all(map(_is_function, supplied)):
        found += code_of_tasks(_folders(config))
    return list(dict.fromkeys(found))


def _is_function(name: str) -> bool:
    from evomerge.evaluation.tasks.functions import is_function  # imports torch

    return is_function(name)


def _folders(config: SearchConfig) -> list[Path]:
    from evomerge import zoo

    include = config.evaluation.include
    return [zoo.tasks_path() if folder == "zoo:tasks" else Path(folder) for folder in include]


def lm_eval_tasks(config: SearchConfig) -> list[str]:
    """Return the tasks and groups of lm-eval that models are scored on."""
    return [n for n in config.tasks if n not in config.rows and not _is_function(n)]


def is_causal(config: SearchConfig) -> bool:
    """Return whether models must be causal language models, for lm-eval."""
    return bool(lm_eval_tasks(config))


def check_rows(config: SearchConfig) -> None:
    """Check that nothing is asked for that only lm-eval's tasks have, where none is scored.

    ConfigError: all objectives and constraints have rows of a file, and there is such a key.
    """
    if not config.rows or not set(config.tasks) <= config.rows.keys():
        return
    given, usual = config.evaluation, EvaluationConfig()
    keys = ("fewshot", "chat_template", "think_end_token", "generation")
    found = [(k, getattr(given, k)) for k in keys if getattr(given, k) != getattr(usual, k)]
    found += [(f"{split}.task_split", getattr(given, split).task_split) for split in SPLITS]
    for key, value in found:
        if value is not None:
            said = value.changes if key == "generation" else value
            raise ConfigError(
                f"`evaluation.{key}` is {shown(said)}, which only tasks of lm-eval have, but "
                f"{config.tasks[0]!r} has rows of its own; remove it."
            )


def uses_templates(config: SearchConfig) -> bool:
    """Return whether texts may be made by chat templates; code of a user may do anything."""
    own = config.is_study or any(map(_is_function, config.tasks))
    pairs = any(kind == "pairwise" for kind, _ in config.rows.values())
    return config.evaluation.chat_template or own or pairs


def load_tasks(config: SearchConfig, allowed: Permissions = NOTHING) -> Evaluator:
    """Load the objectives' tasks and functions. This imports lm_eval, if there are tasks.

    ConfigError: a folder, a task or a function does not exist or cannot be loaded, its code is not
    allowed, or the backend is not installed.
    """
    from evomerge.evaluation.answers import TaskSet
    from evomerge.evaluation.evaluator import Evaluator
    from evomerge.evaluation.inference.reference import Reasoning
    from evomerge.evaluation.inference.vllm_start import check_vllm
    from evomerge.evaluation.tasks.files import load_objective
    from evomerge.evaluation.tasks.functions import find
    from evomerge.evaluation.tasks.harness import Harness

    evaluation, rows = config.evaluation, config.rows
    if evaluation.backend == "vllm":
        check_vllm()
    allowed.require(code_files(config))
    tasks, harness = lm_eval_tasks(config), None
    functions: dict[str, ObjectiveFunction | RowsObjective] = {
        name: find(name) for name in config.tasks if name not in (*tasks, *rows)
    }
    for name, (kind, file) in rows.items():
        functions[name] = load_objective(kind, file, evaluation.batch_size, name)
    if tasks:
        harness = Harness(
            tasks,
            _folders(config),
            fewshot=evaluation.fewshot,
            apply_chat_template=evaluation.chat_template,
            generation=evaluation.generation.changes,
            allow_code=allowed.allow_code,
        )
        plain = [name for name, it in harness.info.tasks.items() if it.kind != "generate_until"]
        if evaluation.enable_thinking and plain:
            raise ConfigError(
                f"`evaluation.enable_thinking` is true, but task {plain[0]!r} compares "
                "log-likelihoods of given answers, before which a model cannot reason; take a task "
                "that generates texts, or set `enable_thinking` to false."
            )
    by_split: dict[Split, TaskSet] = {}
    for split in SPLITS:
        where, section = f"evaluation.{split}", getattr(evaluation, split)
        task_splits = _task_splits(section, tasks, functions, where)
        if section.tasks or task_splits:
            own = {
                name: load_objective(rows[name][0], item, evaluation.batch_size)
                if name in rows
                else find(item)
                for name, item in section.tasks.items()
                if name in functions
            }
            other = {name: item for name, item in section.tasks.items() if name in tasks}
            with_other = harness and harness.with_documents_from(other, task_splits, where)
            by_split[split] = TaskSet(with_other, functions | own)
    measured = {(item.source, item.metric) for item in (*config.objectives, *config.constraints)}
    return Evaluator(
        harness,
        tuple(functions.values()),
        evaluation.batch_size,
        evaluation.backend,
        by_split,
        evaluation.tensor_parallel,
        {source for source, metric in measured if metric == TOKENS},
        [name for name in MODEL_METRICS if (MODEL, name) in measured],
        Reasoning(evaluation.enable_thinking, evaluation.think_end_token),
        config.seed,
        _referenced(config, harness.info) if harness else (),
    )


def _referenced(config: SearchConfig, info: TasksInfo) -> set[str]:
    """Return the tasks whose reference answers are scored."""
    wanted = [item.source for item in config.objectives if NLL in (item.metric, item.tie_breaker)]
    wanted += [item.source for item in config.constraints if item.metric == NLL]
    known = {*info.tasks, *info.groups}
    return {task for name in wanted if name in known for task in info.leaves(name)}


def check_references(evaluator: Evaluator, splits: Mapping[Split, Documents]) -> None:
    """Check that each document of a task with the metric `nll` has a reference answer.

    ConfigError: one has none.
    """
    for split, documents in splits.items():
        if (harness := evaluator.tasks_of(split).harness) is not None:
            for task in sorted(evaluator.referenced):
                harness.check_references(task, documents.get(task, ()))


def _task_splits(
    section: SearchSplit | ValidationSplit | TestSplit,
    tasks: Sequence[str],
    functions: Collection[str],
    where: str,
) -> Mapping[str, str]:
    """Check where a split's documents come from; return task -> its split in lm-eval, if given."""
    given = section.task_split or {}
    by_task = {} if isinstance(given, str) else given
    every = [*tasks, *functions]
    for key, named, names in (("tasks", section.tasks, every), ("task_split", by_task, tasks)):
        for name in (name for name in named if name not in names):
            raise ConfigError(
                f"`{where}.{key}` names {name!r}, but it can only name tasks of the objectives: "
                f"{', '.join(names) or 'here none'}.{did_you_mean(name, names)}"
            )
    return dict.fromkeys(tasks, given) if isinstance(given, str) else by_task


def find_objectives(config: SearchConfig, evaluator: Evaluator) -> tuple[Objective, ...]:
    """Return the objectives with full metric names and directions.

    ConfigError: a task has no such metric, or a task that supplies the documents of a split does
    not have it.
    """
    found = []
    for place, item in enumerate(config.objectives):
        metric, higher = _metric(item, evaluator, "objectives")
        if item.goal is not None:
            higher = item.goal == "maximize"
        if item.tie_breaker is not None:
            ties = item.model_copy(update={"metric": item.tie_breaker})
            _metric(ties, evaluator, f"objectives[{place}].tie_breaker")
        found.append(
            Objective(item.source, metric, item.weight, higher, tie_breaker=item.tie_breaker)
        )
    return tuple(found)


def find_constraints(config: SearchConfig, evaluator: Evaluator) -> tuple[Constraint, ...]:
    """Return the constraints with full metric names; ConfigError: as for `find_objectives`."""
    found = [(item, _metric(item, evaluator, "constraints")[0]) for item in config.constraints]
    return tuple(Constraint(i.source, metric, i.at_least, i.at_most) for i, metric in found)


def _metric(
    item: ObjectiveConfig | ConstraintConfig, evaluator: Evaluator, where: str
) -> tuple[str, bool]:
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


def find_splits(
    config: SearchConfig, evaluator: Evaluator
) -> tuple[Mapping[Split, Documents], str]:
    """Choose the documents of every split; no two splits have a document in common.

    Returns:
        split -> task -> document ids; and in a sentence which documents were left out.

    ConfigError: a task has too few documents.
    """
    from evomerge.evaluation.tasks.documents import DocumentPool, choose_documents

    def pools(split: Split) -> dict[str, DocumentPool]:
        found, tasks = {}, evaluator.tasks_of(split)
        for task in leaves_of(config, tasks.info):
            info = tasks.info.tasks[task]
            if (function := tasks.functions.get(task)) is not None:
                found[task] = DocumentPool(info.source, info.documents, function.forms)
            elif tasks.harness is not None:
                # Documents of different tasks are compared by their rendered text.
                forms = cache(tasks.harness.forms(task, rendered=bool(evaluator.by_split)))
                found[task] = DocumentPool(info.source, info.documents, forms, info.dataset)
        return found

    sizes = {split: getattr(config.evaluation, split).documents for split in SPLITS}
    return choose_documents(sizes, {split: pools(split) for split in SPLITS}, config.seed)


def leaves_of(config: SearchConfig, info: TasksInfo) -> list[str]:
    """Return the tasks that have documents: those of the objectives, or the members of groups."""
    return list(dict.fromkeys(task for name in config.tasks for task in info.leaves(name)))
