"""The tasks of a split, the metrics of a model on their documents, its scores and properties."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from evomerge.evaluation.tasks.functions import ObjectiveFunction
from evomerge.evaluation.tasks.harness import Harness
from evomerge.evaluation.tasks.info import TasksInfo
from evomerge.evaluation.tasks.rows import RowsObjective
from evomerge.evaluation.tasks.scoring import DocumentMetrics, aggregated
from evomerge.scores import Scores

_IN_A_LIST = re.compile(r"\.\d+\.")


@dataclass(frozen=True)
class TaskSet:
    """The tasks, and what else scores models by its name, for the documents of a split."""

    harness: Harness | None
    functions: Mapping[str, ObjectiveFunction | RowsObjective]

    @property
    def info(self) -> TasksInfo:
        """Documents and metrics of the tasks and functions."""
        known = self.harness.info if self.harness else TasksInfo({}, {})
        own = {name: function.info for name, function in self.functions.items()}
        return TasksInfo({**known.tasks, **own}, known.groups)


@dataclass(frozen=True)
class Answers:
    """The metrics of a model on single documents: task -> document id -> metric key -> value."""

    rows: Mapping[str, Mapping[int, DocumentMetrics]]

    def __or__(self, other: Answers) -> Answers:
        """Return the metrics of the documents of both; for common documents, those of `other`."""
        tasks = [*self.rows, *(task for task in other.rows if task not in self.rows)]
        rows = {t: {**self.rows.get(t, {}), **other.rows.get(t, {})} for t in tasks}
        return Answers(rows)

    def scores(self, tasks: TaskSet, seconds: float) -> Scores:
        """Return the scores: the metrics, and their aggregates by task and group."""
        values: dict[str, tuple[float, ...]] = {}
        aggregates: dict[str, dict[str, float]] = {}
        documents = {task: tuple(sorted(rows)) for task, rows in self.rows.items()}
        for task, ids in documents.items():
            rows = [self.rows[task][i] for i in ids]
            keys = dict.fromkeys(key for row in rows for key in row)
            columns: dict[str, tuple[float, ...] | None]
            if (function := tasks.functions.get(task)) is not None:
                found = {key: tuple(row[key] for row in rows) for key in keys}
                columns = {key: found[key] for key in keys if function.info.metrics[key].is_mean}
                aggregates[task] = {key: function.aggregate(key, found[key]) for key in keys}
            else:
                assert tasks.harness is not None
                columns = {key: tasks.harness.per_document(task, key, rows) for key in keys}
                aggregates[task] = aggregated(tasks.harness.tasks[task], rows)
            values |= {f"{task}/{key}": items for key, items in columns.items() if items}
        sizes = {task: len(ids) for task, ids in documents.items()}
        aggregates |= tasks.info.aggregate_groups(aggregates, sizes)
        flat = {
            f"{task}/{key}": v for task, figures in aggregates.items() for key, v in figures.items()
        }
        return Scores(documents, values, flat, {"evaluate": seconds})


def _parameters(model: Any) -> int:
    """Return the number of parameters of the model's checkpoint.

    A weight that is used in two places, such as embeddings that are the head too, counts once.
    Blocks of a path that come from the same layer count each, since a checkpoint has each of them.
    """
    named = model.named_parameters(remove_duplicate=False)
    counts = {name if _IN_A_LIST.search(name) else id(p): p.numel() for name, p in named}
    return sum(counts.values())


PROPERTIES: Mapping[str, Callable[[Any], int]] = {
    "parameters": _parameters,
    "layers": lambda model: int(model.config.get_text_config().num_hidden_layers),
}
"""Those of a merged model itself, which objectives and constraints may name."""
