"""From a search file's objectives to tasks, directions and documents."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from evomerge.config import SearchConfig
from evomerge.scores import Objective, Split

if TYPE_CHECKING:
    from evomerge.evaluate.evaluator import Evaluator
    from evomerge.evaluate.facts import Facts

Documents: TypeAlias = Mapping[str, tuple[int, ...]]
SPLITS: tuple[Split, ...] = ("search", "validation", "test")


def load_tasks(config: SearchConfig) -> Evaluator:
    """Load the objectives' tasks and functions; this imports lm_eval.

    Raises:
        ConfigError: a folder, a task or a function does not exist or cannot be loaded.
    """
    from evomerge import zoo
    from evomerge.evaluate.evaluator import Evaluator
    from evomerge.evaluate.functions import find, is_function
    from evomerge.evaluate.harness import Harness

    evaluation = config.evaluation
    names = list(dict.fromkeys(item.task for item in config.objectives))
    tasks = [name for name in names if not is_function(name)]
    functions = tuple(find(name) for name in names if is_function(name))
    include = [
        zoo.tasks_path() if folder == "zoo:tasks" else Path(folder) for folder in evaluation.include
    ]
    harness = None
    if tasks:
        harness = Harness(tasks, include, evaluation.fewshot, evaluation.chat_template)
    return Evaluator(harness, functions, evaluation.batch_size, evaluation.backend)


def find_objectives(config: SearchConfig, facts: Facts) -> tuple[Objective, ...]:
    """Return the objectives with full metric names and the metrics' directions.

    Raises:
        ConfigError: a task has no such metric.
    """
    found = []
    for item in config.objectives:
        metric, about = facts.metric(item.task, item.metric)
        found.append(Objective(item.task, metric, item.weight, about.higher_is_better))
    return tuple(found)


def frozen_objectives(config: SearchConfig) -> tuple[Objective, ...]:
    """Return a run's objectives from its frozen search file alone."""
    lower = set(config.frozen.lower_is_better) if config.frozen else set()
    plain = (Objective(item.task, item.metric, item.weight) for item in config.objectives)
    return tuple(
        Objective(item.task, item.metric, item.weight, item.key not in lower) for item in plain
    )


def frozen_splits(config: SearchConfig) -> Mapping[Split, Documents]:
    """Return a run's documents from its frozen search file."""
    documents = config.frozen.documents if config.frozen else {}
    return {
        split: {task: tuple(ids) for task, ids in documents.get(split, {}).items()}
        for split in SPLITS
    }


def find_splits(config: SearchConfig, evaluator: Evaluator) -> Mapping[Split, Documents]:
    """Split every task's documents into disjoint parts.

    Raises:
        ConfigError: a task has too few documents, or no field to stratify by.
    """
    from evomerge.evaluate.subsets import split_documents

    evaluation, facts = config.evaluation, evaluator.facts
    sizes = {split: getattr(evaluation, split).documents for split in SPLITS}
    if evaluation.search.order == "rotating":
        sizes["search"] = evaluation.search.pool or 4 * sizes["search"]
    leaves = [task for item in config.objectives for task in facts.leaves(item.task)]
    parts: dict[Split, dict[str, tuple[int, ...]]] = {split: {} for split in SPLITS}
    for task in dict.fromkeys(leaves):
        strata = None
        if evaluation.stratify is not None and evaluator.harness is not None:
            strata = evaluator.harness.field(task, evaluation.stratify)
        count = facts.tasks[task].documents
        chosen = split_documents(count, sizes, config.seed, strata, task=task)
        for split in SPLITS:
            parts[split][task] = tuple(chosen[split])
    return parts
