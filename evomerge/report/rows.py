"""The table of candidates, a row for each: of `evomerge results`, of reports and of data frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evomerge.report.confidence import factor_of
from evomerge.run.history import History
from evomerge.scores import SPLITS, Objective, Scores, Split, fitness_error

FINAL_SPLITS: tuple[Split, ...] = ("validation", "test")


def candidate_rows(
    history: History, objectives: Sequence[Objective], genes: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Return one dictionary for each candidate, all with the same keys.

    `error` is the standard error of a fitness that was estimated from some of the search documents;
    then the search scores in the row are estimates too. Genes, by their names in the order of the
    genome, have columns `gene NAME`.
    """
    rows = []
    for item in history.candidates:
        scores = item.scores("search")
        row: dict[str, Any] = {
            "candidate": item.number,
            "origin": item.name,
            "generation": item.generation,
            "status": item.status,
            "fitness": item.fitness,
            "error": fitness_error(objectives, scores) if scores else None,
        }
        row |= {f"search {o.key}": search_score(scores, o) if scores else None for o in objectives}
        for split in FINAL_SPLITS:
            final = item.scores(split)
            row |= {f"{split} {o.key}": final and final.aggregates[o.key] for o in objectives}
        row["documents"] = sum(scores.fidelity.values()) if scores else 0
        row["winner"] = history.winner is item
        if history.front:
            row["front"] = item in history.front
        row["digest"] = item.digest
        row["failure"] = item.failure
        known = len(item.genome) == len(genes)  # a baseline has no genes
        row |= {f"gene {name}": item.genome[i] if known else None for i, name in enumerate(genes)}
        rows.append(row)
    return rows


def rows_in_per_cent(
    rows: Sequence[dict[str, Any]], objectives: Sequence[Objective]
) -> list[dict[str, Any]]:
    """Return rows for people: shares are in per cent, and the names of their columns say so."""
    shares: set[str] = set()
    for key in score_keys(rows):
        columns = [f"{split} {key}" for split in SPLITS]
        values = [row[name] for row in rows for name in columns if row[name] is not None]
        if values and factor_of(values, key) == 100:
            shares |= set(columns)
    if all(f"search {item.key}" in shares for item in objectives):
        shares |= {"fitness", "error"}

    def cell(name: str, value: Any) -> tuple[str, Any]:
        if name not in shares:
            return name, value
        return f"{name} in %", None if value is None else 100 * value

    return [dict(cell(*item) for item in row.items()) for row in rows]


def score_keys(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the scores `task/metric` that rows have columns of."""
    return [name[7:] for name in (rows[0] if rows else ()) if name.startswith("search ")]


def search_score(scores: Scores, objective: Objective) -> float:
    """Return an objective's score on the search documents, or its estimate, in its own sign."""
    known = scores.expected.get(objective.key)
    return scores.aggregates[objective.key] if known is None else known.value
