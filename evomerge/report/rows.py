"""The table of candidates, one row for each, that `evomerge results` prints and writes as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evomerge.errors import InputError
from evomerge.report.names import short_names
from evomerge.run.atomic import replace_text
from evomerge.run.history import Candidate, History
from evomerge.scores import Failure, Objective, Scores, Split, fitness_error

_BRIEF = ["candidate", "origin", "generation", "status", "fitness", "error", "documents", "failure"]

FINAL_SPLITS: tuple[Split, ...] = ("validation", "test")


def candidate_rows(history: History, objectives: Sequence[Objective]) -> list[dict[str, Any]]:
    """Return one dictionary for each candidate, all with the same keys.

    `error` is the standard error of the fitness if the fitness was estimated from some of the
    search documents, and None if all were scored. If the fitness is an estimate, the search scores
    in the row are estimates too.
    """
    return [candidate_row(item, history, objectives) for item in history.candidates]


def brief_rows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the columns that fit a terminal, without those that are empty in all rows.

    The status of the winner is `winner`, and local parents have the names of their folders.
    """
    names = short_names(row["origin"] for row in rows)
    brief = [
        {column: row[column] for column in _BRIEF}
        | {"origin": names[row["origin"]]}
        | ({"status": "winner"} if row["winner"] else {})
        for row in rows
    ]
    empty = {name for name in _BRIEF if all(row[name] is None for row in brief)}
    return [{name: row[name] for name in _BRIEF if name not in empty} for row in brief]


def candidate_row(
    candidate: Candidate, history: History, objectives: Sequence[Objective]
) -> dict[str, Any]:
    """Return the row of one candidate; see `candidate_rows`."""
    outcome = candidate.outcomes.get("search")
    scores = candidate.scores("search")
    row: dict[str, Any] = {
        "candidate": candidate.number,
        "origin": candidate.name,
        "generation": candidate.generation,
        "status": candidate.status,
        "fitness": candidate.fitness,
        "error": fitness_error(objectives, scores) if scores else None,
    }
    for item in objectives:
        row[f"search {item.key}"] = _score(scores, item) if scores else None
    for split in FINAL_SPLITS:
        final = candidate.scores(split)
        for item in objectives:
            row[f"{split} {item.key}"] = final.aggregates[item.key] if final else None
    row["documents"] = sum(scores.fidelity.values()) if scores else 0
    row["winner"] = history.winner is candidate
    row["digest"] = candidate.digest
    row["failure"] = f"{outcome.stage}: {outcome.reason}" if isinstance(outcome, Failure) else None
    return row


def _score(scores: Scores, objective: Objective) -> float:
    """Return an objective's score on the search documents, or its estimate.

    The sign is the metric's own, also where lower is better.
    """
    known = scores.expected.get(objective.key)
    return scores.aggregates[objective.key] if known is None else known.value


def write_csv(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write rows as CSV with a header line, as one step: a killed process leaves no partial file.

    Raises:
        InputError: the file cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else ["candidate"])
    writer.writeheader()
    writer.writerows(rows)
    try:
        replace_text(path, text.getvalue())
    except OSError as error:
        raise InputError(f"--csv {path} cannot be written: {error.strerror}.") from error
