"""Reading the files whose rows models are scored on: one JSON object in each line."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evomerge.errors import ConfigError
from evomerge.evaluation.tasks import classifiers, encoders
from evomerge.evaluation.tasks.rows import VALUES, BatchSize, Row, RowsObjective
from evomerge.parsing.texts import json_value, read_text

_KINDS: Mapping[str, Any] = {kind.kind: kind for kind in (*encoders.KINDS, *classifiers.KINDS)}


def load_objective(
    kind: str, file: str, batch_size: BatchSize = "auto", name: str | None = None
) -> RowsObjective:
    """Return the objective with the rows of a file.

    `name` is its name in the search; None: a split takes its documents, so the file names it.

    Raises:
        ConfigError: there is no such file, it has no rows, or a row lacks a column.
    """
    path, made, rows = Path(file), _KINDS[kind], list[Row]()
    missing = (
        f"objectives: there is no file {file!r}; its path starts from the search file's folder."
    )
    text = read_text(path, ConfigError, missing)
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            row = VALUES.mapping(json_value(line, where, ConfigError), where)
            rows.append(made.checked(row, where))
    if all(row.get("train") for row in rows):
        raise ConfigError(
            f"objectives: {path} has no row to score on; write lines like {made.row_text}."
        )
    digest = hashlib.sha256(text.encode()).hexdigest()
    own = name or f"{kind} {path.parent.name}/{path.stem}"
    found: RowsObjective = made(own, rows, digest, batch_size)
    return found
