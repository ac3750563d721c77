"""The tasks and objective functions of a split, looked up by the names in the objectives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evomerge.evaluation.tasks.functions import Function
from evomerge.evaluation.tasks.harness import Harness
from evomerge.evaluation.tasks.info import TasksInfo


@dataclass(frozen=True)
class TaskSet:
    """The tasks and functions that supply the documents of a split.

    Attributes:
        harness: the lm-eval tasks, or None if there are none.
        functions: the objective functions, by the names in the objectives.
    """

    harness: Harness | None
    functions: Mapping[str, Function]

    @property
    def info(self) -> TasksInfo:
        """Documents and metrics of the tasks and functions."""
        known = self.harness.info if self.harness else TasksInfo({}, {})
        own = {name: function.info for name, function in self.functions.items()}
        return TasksInfo({**known.tasks, **own}, known.groups)

    def labels(self, task: str, field: str, documents: Sequence[int]) -> list[str]:
        """Return the value of a field for each document, by which samples are stratified.

        Documents of a function have no fields, so all of them get the same label.

        Args:
            task: name of the task or function.
            field: name of the field.
            documents: ids of the documents.

        Raises:
            ConfigError: the task's documents have no such field.
        """
        if self.harness is None or task in self.functions:
            return [""] * len(documents)
        values = self.harness.field(task, field)
        return [values[document] for document in documents]
