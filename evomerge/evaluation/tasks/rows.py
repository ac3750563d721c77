"""What models are scored on without lm-eval and without code of the user: rows of a file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeAlias

from evomerge.errors import ConfigError, did_you_mean
from evomerge.evaluation.tasks.info import MetricInfo, TaskInfo
from evomerge.parsing.values import Values

Row: TypeAlias = Mapping[str, Any]

BatchSize: TypeAlias = int | Literal["auto"]
"""Maximum rows in a batch; `auto` sets it by the memory of the device."""

Columns: TypeAlias = Mapping[str, Callable[[Any, str], Any]]
"""Column -> what returns its value, or raises a ConfigError that names the place, its second
argument."""

Measured: TypeAlias = dict[str, tuple[Any, ...]]
"""Metric -> one value for each document, of which `aggregate` makes the score."""


class _RowValues(Values):
    def label(self, value: Any, where: str) -> Any:
        """Return a label: text, or a whole number."""
        return value if type(value) is int else self.text(value, where, "text or a whole number")


VALUES = _RowValues(ConfigError)


class RowsObjective(ABC):
    """A kind of objective, with the rows of its file, by id.

    It is called with a model, as a function of the user is (`functions.py`). By `digests`, of the
    file's text and of what else scores depend on, a run notices that it has changed.
    """

    model: str  # what is scored, as `TaskInfo.kind`
    kind: str
    columns: ClassVar[Columns]
    needed: tuple[str, ...]  # the columns that each row has
    row_text: str  # a row, for errors
    compared: tuple[str, ...]  # the columns that make two rows the same document
    of_all: tuple[str, ...] = ()  # metrics that are no means over documents

    def __init__(self, name: str, rows: Sequence[Row], digest: str, metrics: Iterable[str]) -> None:
        self.rows, self.digests = rows, {"documents": digest}
        info = {metric: MetricInfo(True, metric not in self.of_all) for metric in metrics}
        self.info = TaskInfo(name, self.model, len(rows), info)

    @classmethod
    def checked(cls, row: Row, where: str) -> Row:
        """Return the known columns of a row; `where` names it in errors.

        Raises:
            ConfigError: a column is missing or has a wrong value.
        """
        for column in cls.needed:
            if row.get(column) is None:
                raise ConfigError(
                    f"objectives: {where} has {'null in' if column in row else 'no'} column "
                    f"{column!r}; a row of {cls.kind} is {cls.row_text}.{did_you_mean(column, row)}"
                )
        given = {key: check for key, check in cls.columns.items() if row.get(key) is not None}
        return {key: check(row[key], f"{where}: {key}") for key, check in given.items()}

    @abstractmethod
    def __call__(self, model: Any, tokenizer: Any, documents: Sequence[int]) -> Measured:
        """Return what a model has on documents, in their order."""

    def aggregate(self, metric: str, values: Sequence[Any]) -> float:
        """Return the score from the values of a metric."""
        return float(sum(values) / len(values))

    def forms(self, document: int) -> tuple[str, ...]:
        """Return the texts by which a document is compared with those of other splits."""
        row = self.rows[document]
        return ("\n".join(str(row[key]) for key in row if key in self.compared),)
