"""From a search file's objectives to tasks, directions and documents."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.config.evaluation import SearchSplit, TestSplit, ValidationSplit
from evomerge.config.frozen import Documents, frozen_splits
from evomerge.config.schema import SearchConfig
from evomerge.errors import ConfigError, did_you_mean
from evomerge.scores import SPLITS, Objective, Split

if TYPE_CHECKING:
    from evomerge.evaluate.evaluator import Evaluator
    from evomerge.evaluate.tasks.documents import Pool
    from evomerge.evaluate.tasks.info import TasksInfo


def load_tasks(config: SearchConfig) -> Evaluator:
    """Load the objectives' tasks and functions; this imports lm_eval.

    Raises:
        ConfigError: a folder, a task or a function does not exist or cannot be loaded, or the
            backend is not there.
    """
    from evomerge import zoo
    from evomerge.evaluate.evaluator import Evaluator
    from evomerge.evaluate.tasks.functions import find, is_function
    from evomerge.evaluate.tasks.harness import Harness
    from evomerge.evaluate.tasks.task_set import TaskSet

    evaluation = config.evaluation
    if evaluation.backend == "vllm":
        _check_served(config)
    names = list(dict.fromkeys(item.task for item in config.objectives))
    tasks = [name for name in names if not is_function(name)]
    functions = {name: find(name) for name in names if is_function(name)}
    include = [
        zoo.tasks_path() if folder == "zoo:tasks" else Path(folder) for folder in evaluation.include
    ]
    harness = None
    if tasks:
        harness = Harness(tasks, include, evaluation.fewshot, evaluation.chat_template)
    by_split: dict[Split, TaskSet] = {}
    for split in SPLITS:
        where = f"evaluation.{split}"
        instead, parts = _turned(getattr(evaluation, split), names, functions, where)
        if instead or parts:
            own = {name: find(item) for name, item in instead.items() if name in functions}
            there = harness and harness.with_documents_from(
                {name: item for name, item in instead.items() if name in tasks}, parts, where
            )
            by_split[split] = TaskSet(there, functions | own)
    return Evaluator(
        harness,
        tuple(functions.values()),
        evaluation.batch_size,
        evaluation.backend,
        by_split,
    )


def _check_served(config: SearchConfig) -> None:
    from evomerge.evaluate.inference.vllm import check_vllm

    if config.space.kind != "parameters":
        raise ConfigError(
            f"`evaluation.backend` is 'vllm', whose engine has one number of layers, but "
            f"`space.kind` is {config.space.kind!r}, where it changes; use the backend 'hf'."
        )
    check_vllm()


def _turned(
    section: SearchSplit | ValidationSplit | TestSplit,
    names: Sequence[str],
    functions: Container[str],
    where: str,
) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Return which tasks stand in for others in a split, and which parts tasks are asked for.

    Raises:
        ConfigError: a key is no objective's task, or a function and a task are mixed up.
    """
    from evomerge.evaluate.tasks.functions import is_function

    for name, item in section.tasks.items():
        _check_known(name, names, f"{where}.tasks")
        if (name in functions) != is_function(item):
            raise ConfigError(
                f"`{where}.tasks`: {item!r} cannot stand for {name!r}, since one is an lm-eval "
                "task and the other a function; name two of a kind."
            )
    parts = section.task_split or {}
    tasks = [name for name in names if name not in functions]
    if isinstance(parts, str):
        parts = dict.fromkeys(tasks, parts)
    for name in parts:
        _check_known(name, tasks, f"{where}.task_split")
    return section.tasks, parts


def _check_known(name: str, names: Sequence[str], where: str) -> None:
    if name not in names:
        raise ConfigError(
            f"`{where}` names {name!r}, which is no lm-eval task of an objective; those are "
            f"{', '.join(names) or 'none'}.{did_you_mean(name, names)}"
        )


def find_objectives(config: SearchConfig, evaluator: Evaluator) -> tuple[Objective, ...]:
    """Return the objectives with full metric names and the metrics' directions.

    Raises:
        ConfigError: a task has no such metric, or the task that asks instead in a split has not.
    """
    found = []
    for item in config.objectives:
        metric, about = evaluator.info.metric(item.task, item.metric)
        for split, tasks in evaluator.by_split.items():
            where = f"evaluation.{split}.tasks"
            key, there = tasks.info.metric(item.task, metric, where)
            if (key, there.higher_is_better) != (metric, about.higher_is_better):
                raise ConfigError(
                    f"`{where}`: the metric {metric!r} of {item.task!r} is {key!r} of another "
                    "direction or filter there; name a task with the same metric."
                )
        found.append(Objective(item.task, metric, item.weight, about.higher_is_better))
    return tuple(found)


def find_splits(config: SearchConfig, evaluator: Evaluator) -> Mapping[Split, Documents]:
    """Choose the documents of every split; no two splits share one.

    Raises:
        ConfigError: a task has too few documents, or no field to stratify by.
    """
    from evomerge.evaluate.tasks.documents import choose_documents

    evaluation = config.evaluation
    sizes = {split: getattr(evaluation, split).documents for split in SPLITS}
    pools = {split: _pools(config, evaluator, split) for split in SPLITS}
    chosen = choose_documents(sizes, pools, config.seed)
    return {
        split: {task: tuple(ids) for task, ids in of_split.items()}
        for split, of_split in chosen.items()
    }


def _pools(config: SearchConfig, evaluator: Evaluator, split: Split) -> dict[str, Pool]:
    """Return what a split's documents can be chosen from, by task."""
    from evomerge.evaluate.tasks.documents import Pool

    supply, field = evaluator.tasks_of(split), config.evaluation.stratify
    pools = {}
    for task in _leaves(config, supply.info):
        info, harness = supply.info.tasks[task], supply.harness
        if harness is None or task in supply.functions:
            pools[task] = Pool(info.source, info.documents)
            continue
        # Documents of one source are compared as they are, those of several by what they ask.
        forms = cache(harness.forms(task, rendered=bool(evaluator.by_split)))
        labels = None if field is None else harness.field(task, field)
        pools[task] = Pool(info.source, info.documents, forms, labels)
    return pools


def sources(config: SearchConfig, evaluator: Evaluator) -> dict[str, dict[str, str]]:
    """Return where the ids of every split count: split -> task -> lm-eval task and its split."""
    info = {split: evaluator.tasks_of(split).info for split in SPLITS}
    return {
        split: {task: known.tasks[task].source for task in _leaves(config, known)}
        for split, known in info.items()
    }


def check_sources(config: SearchConfig, evaluator: Evaluator) -> None:
    """Refuse tasks whose documents are not those that a run has frozen.

    Raises:
        ConfigError: the ids are numbers of another source, or there are fewer documents than ids.
    """
    known = config.frozen.sources if config.frozen else {}
    now = sources(config, evaluator)
    for split, documents in frozen_splits(config).items():
        for task, ids in documents.items():
            source = known.get(split, {}).get(task)
            count = evaluator.tasks_of(split).info.tasks[task].documents
            if source not in (None, now[split].get(task)) or max(ids, default=0) >= count:
                raise ConfigError(
                    f"The run's {split} documents of task {task!r} are numbers of "
                    f"{source or task!r} up to {max(ids)}, but the task now has {count} documents "
                    f"of {now[split].get(task)!r}; put its YAML and data back, or start a new run."
                )


def _leaves(config: SearchConfig, info: TasksInfo) -> list[str]:
    """Return the tasks that ask documents, each once."""
    leaves = (task for item in config.objectives for task in info.leaves(item.task))
    return list(dict.fromkeys(leaves))
