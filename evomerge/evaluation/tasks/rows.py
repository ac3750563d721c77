"""Objectives of rows of a file, one JSON object in each line, without lm-eval.

A package adds a kind: an entry point of the group `evomerge.objectives` whose object is a subclass
of `RowsObjective`. Search files name it by `kind` (docs/how-to/own-kind.md).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

from evomerge.errors import ConfigError, did_you_mean
from evomerge.evaluation.tasks.info import MetricInfo, TaskInfo
from evomerge.evaluation.tasks.objective import SingleTask
from evomerge.parsing.texts import json_value, read_text
from evomerge.parsing.values import Values

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
    """

    metrics: ClassVar[tuple[str, ...]]
    of_all: ClassVar[tuple[str, ...]] = ()
    columns: ClassVar[Columns]
    needed: ClassVar[tuple[str, ...]]
    compared: ClassVar[tuple[str, ...]]
    row_text: ClassVar[str]

    def __init__(self, name: str, rows: Sequence[Row], digest: str, batch_size: BatchSize) -> None:
        self.rows, self.batch_size, self._digest = rows, batch_size, digest
        info = {metric: MetricInfo(True, metric not in self.of_all) for metric in self.metrics}
        super().__init__(TaskInfo(name, "rows", len(rows), info))

    @classmethod
    def load(
        cls, kind: str, file: str, batch_size: BatchSize = "auto", name: str | None = None
    ) -> RowsObjective:
        """Return the objective with the rows of a file.

        `name` is its name in the search; None: a split takes its documents, so the file names it.

        Raises:
            ConfigError: there is no such file, it has no rows, or a row lacks a column.
        """
        path, rows = Path(file), list[Row]()
        text = read_text(path, ConfigError)
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                where = f"{path}, line {number}"
                row = VALUES.mapping(json_value(line, where, ConfigError), where)
                rows.append(cls.checked(row, kind, where))
        if all(row.get("train") for row in rows):
            raise ConfigError(
                f"objectives: {path} has no row to score on; write lines like {cls.row_text}."
            )
        digest = hashlib.sha256(text.encode()).hexdigest()
        return cls(name or f"{kind} {path.parent.name}/{path.stem}", rows, digest, batch_size)

    @classmethod
    def checked(cls, row: Row, kind: str, where: str) -> Row:
        """Return the known columns of a row; `kind` and `where` name it in errors.

        Raises:
            ConfigError: a column is missing or has a wrong value.
        """
        for column in cls.needed:
            if row.get(column) is None:
                raise ConfigError(
                    f"objectives: {where} has {'null in' if column in row else 'no'} column "
                    f"{column!r}; a row of {kind} is {cls.row_text}.{did_you_mean(column, row)}"
                )
        checks = {key: check for key, check in cls.columns.items() if row.get(key) is not None}
        return {key: check(row[key], f"{where}: {key}") for key, check in checks.items()}

    def digest(self, task: str, ids: Sequence[int]) -> str:
        """Return the digest of the file's text."""
        return self._digest

    def forms(self, task: str, *, rendered: bool) -> Callable[[int], Sequence[str]]:
        """Return what gives the text of the columns that are compared."""

        def text(document: int) -> tuple[str, ...]:
            row = self.rows[document]
            return ("\n".join(str(row[key]) for key in row if key in self.compared),)

        return text
