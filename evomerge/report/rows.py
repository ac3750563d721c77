"""One row a candidate: what `evomerge results` prints and writes as CSV."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evomerge.errors import InputError
from evomerge.run.history import Candidate, History
from evomerge.scores import Failure, Objective, Split

FINAL_SPLITS: tuple[Split, ...] = ("validation", "test")


def candidate_rows(history: History, objectives: Sequence[Objective]) -> list[dict[str, Any]]:
    """Return one mapping a candidate, with the same keys in each."""
    return [_row(item, history, objectives) for item in history.candidates]


def _row(candidate: Candidate, history: History, objectives: Sequence[Objective]) -> dict[str, Any]:
    outcome = candidate.outcomes.get("search")
    scores = candidate.scores("search")
    row: dict[str, Any] = {
        "candidate": candidate.number,
        "origin": candidate.origin,
        "generation": candidate.generation if candidate.trial is not None else None,
        "status": candidate.status,
        "fitness": candidate.fitness,
    }
    for item in objectives:
        row[f"search {item.key}"] = scores.aggregates[item.key] if scores else None
    for split in FINAL_SPLITS:
        final = candidate.scores(split)
        for item in objectives:
            row[f"{split} {item.key}"] = final.aggregates[item.key] if final else None
    row["documents"] = sum(scores.fidelity.values()) if scores else 0
    row["winner"] = history.winner is candidate
    row["digest"] = candidate.digest
    row["failure"] = f"{outcome.stage}: {outcome.reason}" if isinstance(outcome, Failure) else None
    return row


def write_csv(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write rows as CSV with a header line.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else ["candidate"])
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise InputError(f"--csv {path} cannot be written: {error.strerror}.") from error
