"""The tasks of a search file's objectives, their metrics and the documents of every split."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.config.evaluation import SearchSplit, TestSplit, ValidationSplit
from evomerge.config.frozen import Documents, frozen_splits
from evomerge.config.objectives import ConstraintConfig, ObjectiveConfig
from evomerge.config.schema import SearchConfig
from evomerge.errors import ConfigError, did_you_mean
from evomerge.scores import MODEL_METRICS, SPLITS, TOKENS, Constraint, Objective, Split
from evomerge.setup.code_files import code_files
from evomerge.trust.consent import Consent

if TYPE_CHECKING:
    from evomerge.evaluation.evaluator import Evaluator
    from evomerge.evaluation.tasks.documents import DocumentPool
    from evomerge.evaluation.tasks.info import TaskInfo, TasksInfo

_DATASET = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)


def load_tasks(
    config: SearchConfig, *, allow_code: bool = False, consent: Consent | None = None
) -> Evaluator:
    """Load the objectives' tasks and functions. This imports lm_eval, if there are tasks.

    Args:
        config: the search file.
        allow_code: accept tasks that run code which the model writes.
        consent: decides whether the code of tasks and functions may run; None: if it was allowed
            before.

    Raises:
        ConfigError: a folder, a task or a function does not exist or cannot be loaded, its code is
            not allowed, or the backend is not installed.
    """
    from evomerge import zoo
    from evomerge.evaluation.answers import TaskSet
    from evomerge.evaluation.evaluator import Evaluator
    from evomerge.evaluation.inference.reference import Reasoning
    from evomerge.evaluation.inference.vllm_start import check_vllm
    from evomerge.evaluation.tasks.functions import find, is_function
    from evomerge.evaluation.tasks.harness import Harness

    evaluation = config.evaluation
    if evaluation.backend == "vllm":
        check_vllm()
    (consent or Consent()).require(code_files(config))
    names, measured = config.tasks, (*config.objectives, *config.constraints)
    tasks = [name for name in names if not is_function(name)]
    functions = {name: find(name) for name in names if is_function(name)}
    include = [
        zoo.tasks_path() if folder == "zoo:tasks" else Path(folder) for folder in evaluation.include
    ]
    harness = None
    if tasks:
        harness = Harness(
            tasks,
            include,
            evaluation.fewshot,
            evaluation.chat_template,
            evaluation.generation.changes,
            allow_code,
        )
        if evaluation.enable_thinking:
            _check_generates(harness.info)
    by_split: dict[Split, TaskSet] = {}
    for split in SPLITS:
        where = f"evaluation.{split}"
        other, task_splits = _document_sources(getattr(evaluation, split), names, functions, where)
        if other or task_splits:
            split_functions = {
                name: find(item) for name, item in other.items() if name in functions
            }
            split_harness = harness and harness.with_documents_from(
                {name: item for name, item in other.items() if name in tasks}, task_splits, where
            )
            by_split[split] = TaskSet(split_harness, functions | split_functions)
    return Evaluator(
        harness,
        tuple(functions.values()),
        evaluation.batch_size,
        evaluation.backend,
        by_split,
        evaluation.tensor_parallel,
        {item.source for item in measured if item.metric == TOKENS},
        [
            name
            for name in MODEL_METRICS
            if any(m.task is None and m.metric == name for m in measured)
        ],
        Reasoning(evaluation.enable_thinking, evaluation.think_end_token),
        config.seed,
    )


def _check_generates(info: TasksInfo) -> None:
    """Refuse tasks that compare log-likelihoods, where models are to reason before they answer."""
    for name, task in info.tasks.items():
        if task.kind != "generate_until":
            raise ConfigError(
                f"`evaluation.enable_thinking` is true, but task {name!r} compares log-likelihoods "
                "of given answers, before which a model cannot reason; take a task that generates "
                "texts, or set `enable_thinking` to false."
            )


def _document_sources(
    section: SearchSplit | ValidationSplit | TestSplit,
    names: Sequence[str],
    functions: Container[str],
    where: str,
) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Return where the documents of a split come from, if not from the objectives' usual ones.

    Args:
        section: the section of the split in the search file.
        names: the tasks and functions of the objectives.
        functions: those of them that are functions.
        where: key of the section, for messages.

    Returns:
        objective's task -> task that supplies the documents; and task -> lm-eval's split of it.

    Raises:
        ConfigError: a key is not the task of an objective, or a task is to supply the documents of
            a function, or a function those of a task.
    """
    from evomerge.evaluation.tasks.functions import is_function

    for name, item in section.tasks.items():
        _check_known(name, names, f"{where}.tasks")
        if (name in functions) != is_function(item):
            raise ConfigError(
                f"`{where}.tasks`: {item!r} cannot supply the documents of {name!r}, since one is "
                "an lm-eval task and the other a function; name two of the same kind."
            )
    task_splits = section.task_split or {}
    tasks = [name for name in names if name not in functions]
    if isinstance(task_splits, str):
        task_splits = dict.fromkeys(tasks, task_splits)
    for name in task_splits:
        _check_known(name, tasks, f"{where}.task_split")
    return section.tasks, task_splits


def _check_known(name: str, names: Sequence[str], where: str) -> None:
    """Refuse a task that is not one of the names."""
    if name not in names:
        raise ConfigError(
            f"`{where}` names {name!r}, but it can only name tasks of the objectives: "
            f"{', '.join(names) or 'here none'}.{did_you_mean(name, names)}"
        )


def find_objectives(config: SearchConfig, evaluator: Evaluator) -> tuple[Objective, ...]:
    """Return the objectives with full metric names and directions.

    Raises:
        ConfigError: a task has no such metric, or a task that supplies the documents of a split
            does not have it.
    """
    found = []
    for item in config.objectives:
        metric, higher = _metric(item, evaluator, "objectives")
        higher = higher if item.goal is None else item.goal == "maximize"
        found.append(Objective(item.source, metric, item.weight, higher, item.margin))
    return tuple(found)


def find_constraints(config: SearchConfig, evaluator: Evaluator) -> tuple[Constraint, ...]:
    """Return the constraints with full metric names.

    Raises:
        ConfigError: as for `find_objectives`.
    """
    return tuple(
        Constraint(
            item.source,
            _metric(item, evaluator, "constraints")[0],
            item.at_least,
            item.at_most,
        )
        for item in config.constraints
    )


def _metric(
    item: ObjectiveConfig | ConstraintConfig, evaluator: Evaluator, where: str
) -> tuple[str, bool]:
    """Return the full name of a metric, and whether higher values are better."""
    if item.task is None:
        return item.metric, False
    metric, info = evaluator.info.metric(item.task, item.metric, where)
    for split, tasks in evaluator.by_split.items():
        key = f"evaluation.{split}.tasks"
        other, other_info = tasks.info.metric(item.task, metric, key)
        if other != metric or other_info.higher_is_better != info.higher_is_better:
            raise ConfigError(
                f"`{key}`: the task named for {item.task!r} has the metric {other!r} with another "
                f"filter or direction than {metric!r}; name a task with the same metric."
            )
    return metric, info.higher_is_better


def find_splits(config: SearchConfig, evaluator: Evaluator) -> Mapping[Split, Documents]:
    """Choose the documents of every split; no two splits have a document in common.

    Returns:
        split -> task -> document ids.

    Raises:
        ConfigError: a task has too few documents, or lacks the field to stratify by.
    """
    from evomerge.evaluation.tasks.documents import choose_documents

    evaluation = config.evaluation
    sizes = {split: getattr(evaluation, split).documents for split in SPLITS}
    pools = {split: _pools(config, evaluator, split) for split in SPLITS}
    chosen = choose_documents(sizes, pools, config.seed)
    return {
        split: {task: tuple(ids) for task, ids in of_split.items()}
        for split, of_split in chosen.items()
    }


def _pools(config: SearchConfig, evaluator: Evaluator, split: Split) -> dict[str, DocumentPool]:
    """Return the documents that those of a split are chosen from, by task."""
    from evomerge.evaluation.tasks.documents import DocumentPool

    tasks, field = evaluator.tasks_of(split), config.evaluation.stratify
    pools = {}
    for task in _leaves(config, tasks.info):
        info, harness = tasks.info.tasks[task], tasks.harness
        if harness is None or task in tasks.functions:
            pools[task] = DocumentPool(info.source, info.documents)
            continue
        # If splits have documents of different tasks, these are compared by their rendered text.
        forms = cache(harness.forms(task, rendered=bool(evaluator.by_split)))
        labels = None if field is None else harness.field(task, field)
        pools[task] = DocumentPool(info.source, info.documents, forms, labels, info.dataset)
    return pools


def sources(config: SearchConfig, evaluator: Evaluator) -> dict[str, dict[str, str]]:
    """Return the source of the document ids: split -> task -> `lm-eval task:its split`."""
    infos = {split: evaluator.tasks_of(split).info for split in SPLITS}
    return {
        split: {task: info.tasks[task].source for task in _leaves(config, info)}
        for split, info in infos.items()
    }


def sampled(config: SearchConfig, evaluator: Evaluator) -> dict[str, int]:
    """Return the tasks that sample their texts, with the number of texts for each document."""
    infos = [evaluator.tasks_of(split).info for split in SPLITS]
    return {
        task: info.tasks[task].repeats
        for info in infos
        for task in _leaves(config, info)
        if info.tasks[task].is_sampled
    }


def datasets(config: SearchConfig, evaluator: Evaluator) -> dict[str, dict[str, dict[str, str]]]:
    """Return the data sets on the Hub that documents come from: split -> task -> `HubDataset`.

    A data set in local files is left out.
    """
    infos = {split: evaluator.tasks_of(split).info for split in SPLITS}
    return {
        split: {
            task: found
            for task in _leaves(config, info)
            if (found := _hub_dataset(info.tasks[task])) is not None
        }
        for split, info in infos.items()
    }


def _hub_dataset(task: TaskInfo) -> dict[str, str] | None:
    """Return what names a task's data set on the Hub; None if it is not there.

    A name without an owner may be a kind of local files (`json`), so it is not taken as an id.
    """
    if not _DATASET.fullmatch(task.dataset) or Path(task.dataset).exists():
        return None
    split = task.task_splits.get(task.task_split, "")
    named = {"id": task.dataset, "config": task.dataset_config, "split": split}
    return {key: value for key, value in named.items() if value}


def check_sources(config: SearchConfig, evaluator: Evaluator) -> None:
    """Check that the tasks still have the documents that a run has frozen.

    Raises:
        ConfigError: the documents come from another source, or there are too few for the ids.
    """
    frozen = config.frozen.sources if config.frozen else {}
    now = sources(config, evaluator)
    for split, documents in frozen_splits(config).items():
        for task, ids in documents.items():
            source = frozen.get(split, {}).get(task)
            count = evaluator.tasks_of(split).info.tasks[task].documents
            if source not in (None, now[split].get(task)) or max(ids, default=0) >= count:
                raise ConfigError(
                    f"The run's {split} documents of task {task!r} come from {source or task!r}, "
                    f"with ids up to {max(ids)}, but the task now has {count} documents from "
                    f"{now[split].get(task)!r}; restore its YAML and data, or start a new run."
                )


def _leaves(config: SearchConfig, info: TasksInfo) -> list[str]:
    """Return the tasks that have documents: those of the objectives, or the members of groups."""
    leaves = (task for name in config.tasks for task in info.leaves(name))
    return list(dict.fromkeys(leaves))
