"""Reading a run's frozen search file: objectives with directions, documents of every split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from evomerge.config.schema import SearchConfig
from evomerge.scores import SPLITS, Objective, Split

Documents: TypeAlias = Mapping[str, tuple[int, ...]]
"""Task -> ids of its documents in one split."""


def frozen_objectives(config: SearchConfig) -> tuple[Objective, ...]:
    """Return a run's objectives from its frozen search file; no task is loaded."""
    lower = set(config.frozen.lower_is_better) if config.frozen else set()
    plain = (Objective(item.task, item.metric, item.weight) for item in config.objectives)
    return tuple(
        Objective(item.task, item.metric, item.weight, item.key not in lower) for item in plain
    )


def frozen_splits(config: SearchConfig) -> Mapping[Split, Documents]:
    """Return a run's document ids, by split and task, from its frozen search file."""
    documents = config.frozen.documents if config.frozen else {}
    return {
        split: {task: tuple(ids) for task, ids in documents.get(split, {}).items()}
        for split in SPLITS
    }
