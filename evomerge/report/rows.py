"""The table of candidates, one row for each, that `evomerge results` prints and writes as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evomerge.report.confidence import factor_of
from evomerge.report.words import short_names, short_scores
from evomerge.run.atomic import write_output
from evomerge.run.history import History
from evomerge.scores import SPLITS, Objective, Scores, Split, fitness_error

_BRIEF = ("candidate", "origin", "generation", "status", "fitness", "error", "documents", "failure")

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""How a text begins that a spreadsheet takes for a formula; it reads wide forms as plain ones."""

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
    for key in _score_keys(rows):
        own = [f"{split} {key}" for split in SPLITS]
        values = [row[name] for row in rows for name in own if row[name] is not None]
        if values and factor_of(values, key) == 100:
            shares |= set(own)
    if all(f"search {item.key}" in shares for item in objectives):
        shares |= {"fitness", "error"}

    def shown(name: str, value: Any) -> tuple[str, Any]:
        if name not in shares:
            return name, value
        return f"{name} in %", None if value is None else 100 * value

    return [dict(shown(*item) for item in row.items()) for row in rows]


def _score_keys(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the scores `task/metric` that rows have columns of."""
    return [name[7:] for name in (rows[0] if rows else ()) if name.startswith("search ")]


def brief_rows(
    rows: Sequence[dict[str, Any]], objectives: Sequence[Objective]
) -> list[dict[str, Any]]:
    """Return the columns that fit a terminal, without those that are empty in all rows.

    The winner's status is `winner`, local parents have short names, and shares are in per cent.
    """
    names = short_names(row["origin"] for row in rows)
    kept = {name: name for name in _BRIEF}
    if all(row["fitness"] is None for row in rows):  # in a search for a front
        kept |= {f"search {key}": short for key, short in short_scores(_score_keys(rows)).items()}
    brief = []
    for row in rows_in_per_cent(rows, objectives):
        plain = {name: name.removesuffix(" in %") for name in row}
        found = {n.replace(p, kept[p]): row[n] for n, p in plain.items() if p in kept}
        found["origin"] = names[row["origin"]]
        if row.get("front"):
            found["status"] = "knee" if row["winner"] else "front"
        elif row["winner"]:
            found["status"] = "winner"
        brief.append(found)
    shown = [name for name in (brief or [{}])[0] if any(row[name] is not None for row in brief)]
    return [{name: row[name] for name in shown} for row in brief]


def best_rows(rows: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Return so many rows, by fitness or, in a search for a front, by the first objective."""
    column = "fitness"
    if rows and all(row["fitness"] is None for row in rows):
        column = next(key for key in rows[0] if key.startswith("search "))
    scored = [row for row in rows if row[column] is not None]
    rest = [row for row in rows if row[column] is None]
    return [*sorted(scored, key=lambda row: -row[column]), *rest][:count]


def search_score(scores: Scores, objective: Objective) -> float:
    """Return an objective's score on the search documents, or its estimate, in its own sign."""
    known = scores.expected.get(objective.key)
    return scores.aggregates[objective.key] if known is None else known.value


def _no_formula(cell: Any) -> Any:
    """Return a cell that a spreadsheet shows and does not run."""
    if not isinstance(cell, str) or not cell.startswith(_FORMULA):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def write_csv(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write rows as CSV with a header line. InputError: the file cannot be written.

    A text that a spreadsheet would take for a formula gets an apostrophe before it (OWASP, CSV
    injection). Texts of numbers stay as they are.
    """
    text = io.StringIO(newline="")
    names = list(rows[0]) if rows else ["candidate"]
    writer = csv.writer(text)
    writer.writerow(map(_no_formula, names))
    writer.writerows([_no_formula(row[name]) for name in names] for row in rows)
    write_output(path, text.getvalue(), "--csv")
