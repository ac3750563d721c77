"""Reading a run's frozen search file: objectives, constraints, documents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeAlias

from evomerge.config.schema import SearchConfig
from evomerge.scores import SPLITS, Constraint, Objective, Split

Documents: TypeAlias = Mapping[str, tuple[int, ...]]
"""Task -> ids of its documents in one split."""


def frozen_objectives(config: SearchConfig) -> tuple[Objective, ...]:
    """Return a run's objectives from its frozen search file; no task is loaded."""
    lower = set(config.frozen.lower_is_better) if config.frozen else set()
    plain = (
        Objective(item.source, item.metric, item.weight, margin=item.margin)
        for item in config.objectives
    )
    return tuple(replace(item, higher_is_better=item.key not in lower) for item in plain)


def frozen_constraints(config: SearchConfig) -> tuple[Constraint, ...]:
    """Return a run's constraints from its frozen search file; no task is loaded."""
    return tuple(
        Constraint(item.source, item.metric, item.at_least, item.at_most)
        for item in config.constraints
    )


def frozen_splits(config: SearchConfig) -> Mapping[Split, Documents]:
    """Return a run's document ids, by split and task, from its frozen search file."""
    documents = config.frozen.documents if config.frozen else {}
    return {
        split: {task: tuple(ids) for task, ids in documents.get(split, {}).items()}
        for split in SPLITS
    }
