"""Objectives of rows of a file, one JSON object in each line, without lm-eval.

A package adds a kind: an entry point of the group `evomerge.objectives` whose object is a subclass
of `RowsObjective`. Search files name it by `kind` (docs/how-to/own-kind.md).
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeAlias

from evomerge.errors import ConfigError, printable
from evomerge.evaluation.tasks.info import MetricInfo, TaskInfo
from evomerge.evaluation.tasks.objective import Merges, SingleTask, in_short
from evomerge.parsing.texts import json_value, read_text
from evomerge.parsing.values import Values
from evomerge.scores import Example

Row: TypeAlias = Mapping[str, Any]

BatchSize: TypeAlias = int | Literal["auto"]
"""Maximum rows in a batch; `auto` sets it by the memory of the device."""

Columns: TypeAlias = Mapping[str, Callable[[Any, str], Any]]
"""Column -> what returns its value, or raises a ConfigError that names the place, its second
argument."""


class _RowValues(Values):
    def label(self, value: Any, where: str) -> Any:
        """Return a label: text, or a whole number."""
        return value if type(value) is int else self.text(value, where, "text or a whole number")


VALUES = _RowValues(ConfigError)
ANSWER = "answer"
"""Beside the metrics of a document: what `RowsObjective.answers` has of it."""
_TOLD = 5  # rows with mistakes


class RowsObjective(SingleTask):
    """A kind of objective, with the rows of its file by id: `rows`.

    What a subclass says of itself:

    Attributes:
        metrics: names of its metrics; higher is better.
        of_all: those that are no means over documents; see `aggregate`.
        columns: what a row may have, each with a function that checks the value.
        needed: the columns that each row has.
        compared: the columns that make two rows the same document.
        row_text: a row, for errors.
        needs_head: whether models have a classification head.

    A kind that puts texts into `answers`, id of a document -> what a model made of it last and what
    is right, has documents to show.
    """

    metrics: ClassVar[tuple[str, ...]]
    of_all: ClassVar[tuple[str, ...]] = ()
    columns: ClassVar[Columns]
    needed: ClassVar[tuple[str, ...]]
    compared: ClassVar[tuple[str, ...]]
    row_text: ClassVar[str]
    needs_head: ClassVar[bool] = False

    def __init__(self, name: str, rows: Sequence[Row], digest: str, batch_size: BatchSize) -> None:
        self.rows, self.batch_size, self._digest = rows, batch_size, digest
        self.answers, self._notes = dict[int, tuple[str, str]](), list[str]()
        info = {metric: MetricInfo(True, metric not in self.of_all) for metric in self.metrics}
        super().__init__(TaskInfo(name, "rows", len(rows), info))

    @classmethod
    def load(
        cls, kind: str, file: str, batch_size: BatchSize = "auto", name: str | None = None
    ) -> Self:
        """Return the objective with the rows of a file.

        `name` is its name in the search; None: a split takes its documents, so the file names it.

        Raises:
            ConfigError: there is no such file, it has no rows, or a row lacks a column.
        """
        path, rows, mistakes, unread = Path(file), list[Row](), list[str](), set[str]()
        text = read_text(path, ConfigError)
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                where = f"{path}, line {number}"
                try:
                    row = VALUES.mapping(json_value(line, where, ConfigError), where)
                    rows.append(cls.checked(row, kind, where))
                    unread |= row.keys() - cls.columns.keys()
                except ConfigError as error:
                    mistakes.append(str(error))
        cls._refuse(mistakes, str(path))
        if all(row.get("train") for row in rows):
            raise ConfigError(
                f"objectives: {path} has no row to score on; write lines like {cls.row_text}."
            )
        digest = hashlib.sha256(text.encode()).hexdigest()
        made = cls(name or f"{kind} {path.parent.name}/{path.stem}", rows, digest, batch_size)
        if unread:
            what = f"columns that are not read: {printable(', '.join(sorted(unread)))}"
            made._notes.append(f"{path} has {what}; a row of {kind} is {cls.row_text}.")
        if twice := len(rows) - len({*map(cls._text, rows)}):
            what = f"rows with the same {' and '.join(cls.compared)} as an earlier one ({twice})"
            made._notes.append(f"{path} has {what}, which count again; join or remove them.")
        return made

    @classmethod
    def checked(cls, row: Row, kind: str, where: str) -> Row:
        """Return the known columns of a row; `kind` and `where` name it in errors.

        Raises:
            ConfigError: a column is missing or has a wrong value.
        """
        for column in cls.needed:
            if row.get(column) is None:
                others = f", but {', '.join(row) or 'none'}" if column not in row else ""
                raise ConfigError(
                    f"objectives: {where} has {'no' if others else 'null in'} column {column!r}"
                    f"{others}; a row of {kind} is {cls.row_text}."
                )
        checks = {key: check for key, check in cls.columns.items() if row.get(key) is not None}
        return {key: check(row[key], f"{where}: {key}") for key, check in checks.items()}

    def digest(self, task: str, ids: Sequence[int]) -> str:
        """Return the digest of the file's text."""
        return self._digest

    def forms(self, task: str, *, rendered: bool) -> Callable[[int], Sequence[str]]:
        """Return what gives the text of the columns that are compared."""
        return lambda document: (self._text(self.rows[document]),)

    @classmethod
    def _text(cls, row: Row) -> str:
        return "\n".join(str(row[key]) for key in row if key in cls.compared)

    def warnings(self, merges: Merges) -> Sequence[str]:
        """Return what is doubtful in the file."""
        return self._notes

    def example(self, task: str, document: int, values: Mapping[str, float]) -> Example | None:
        """Return a row, with what the model made of it last; None: the kind does not say it."""
        if (found := self.answers.get(document)) is None:
            return None
        return in_short(task, document, (self._text(self.rows[document]), found[0], *found), values)

    @staticmethod
    def _refuse(mistakes: Sequence[str], where: str) -> None:
        """Raise a ConfigError with the first mistakes in rows, if there are any."""
        if (more := len(mistakes) - _TOLD) > 0:
            mistakes = [*mistakes[:_TOLD], f"objectives: {where} has more such rows: {more}."]
        if mistakes:
            raise ConfigError(*mistakes)
