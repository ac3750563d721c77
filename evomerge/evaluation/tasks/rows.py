"""What models are scored on without lm-eval and without code of the user: rows of a file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from evomerge.errors import ConfigError
from evomerge.evaluation.tasks.info import MetricInfo, TaskInfo
from evomerge.parsing.values import Values

Row: TypeAlias = Mapping[str, Any]

BatchSize: TypeAlias = int | Literal["auto"]
"""Maximum rows in a batch; `auto` sets it by the memory of the device."""

VALUES = Values(ConfigError)


class RowsObjective(ABC):
    """A kind of objective, with the rows of its file.

    It is called with a model, as a function of the user is (`functions.py`).

    Attributes:
        rows: the documents, by id.
        digests: of the file's text, and of what else scores depend on, by which a run notices
            that it has changed.
    """

    model: str
    """What kind of model is scored, as `TaskInfo.kind`."""

    kind: str
    needed: tuple[str, ...]
    """The columns that each row has."""

    row_text: str
    """A row, for errors."""

    compared: tuple[str, ...]
    """The columns that make two rows the same document."""

    def __init__(self, name: str, rows: Sequence[Row], digest: str, metrics: Iterable[str]) -> None:
        self.rows, self.digests = rows, {"documents": digest}
        info = {metric: MetricInfo(True, self.is_mean(metric)) for metric in metrics}
        self.info = TaskInfo(name, self.model, len(rows), info)

    @staticmethod
    @abstractmethod
    def checked(row: Row, where: str) -> Row:
        """Return a row, after a check that it has its columns; `where` names it in errors."""

    @abstractmethod
    def __call__(
        self, model: Any, tokenizer: Any, documents: Sequence[int]
    ) -> dict[str, tuple[Any, ...]]:
        """Return metric -> one value for each document, of which `aggregate` makes the score."""

    def is_mean(self, metric: str) -> bool:
        """Return whether a score is the mean of one value for each document."""
        return True

    def aggregate(self, metric: str, values: Sequence[Any]) -> float:
        """Return the score from the values of a metric."""
        return float(sum(values) / len(values))

    def forms(self, document: int) -> tuple[str, ...]:
        """Return the texts by which a document is compared with those of other splits."""
        row = self.rows[document]
        return ("\n".join(str(row[key]) for key in row if key in self.compared),)


def text_or_number(value: Any, where: str) -> Any:
    """Return a label: text, or a whole number; ConfigError: it is neither."""
    return value if type(value) is int else VALUES.text(value, where, "text or a whole number")
