"""The rows of a run's results: of candidates, and of their documents."""

from collections.abc import Sequence
from itertools import product
from typing import Any

from evomerge.report.confidence import factor_of
from evomerge.run.history import History
from evomerge.scores import SPLITS, Objective, Scores, Split, fitness_error
from evomerge.words import short_names, short_scores

FINAL_SPLITS: tuple[Split, ...] = ("validation", "test")

DOCUMENT_COLUMNS = (
    *("candidate", "split", "task", "document", "metric", "value"),
    *("text", "prompt", "target"),
)
_NO_TEXTS = (None,) * 3

_BRIEF = ("candidate", "origin", "generation", "status", "fitness", "error", "documents", "failure")
"""Columns that fit a terminal."""


def candidate_rows(
    history: History, objectives: Sequence[Objective], genes: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Return one dictionary for each candidate, all with the same keys.

    `error` is the standard error of a fitness that was estimated from some of the search documents;
    then the search scores in the row are estimates too. Genes, by their names in the order of the
    genome, have columns `gene NAME`.
    """
    rows = []
    for candidate in history.candidates:
        scores = candidate.scores("search")
        row: dict[str, Any] = {
            "candidate": candidate.number,
            "origin": candidate.name,
            "generation": candidate.generation,
            "status": candidate.status,
            "fitness": candidate.fitness,
            "error": fitness_error(objectives, scores) if scores else None,
        }
        row |= {f"search {o.key}": search_score(scores, o) if scores else None for o in objectives}
        for split in FINAL_SPLITS:
            final = candidate.scores(split)
            row |= {f"{split} {o.key}": final and final.aggregates[o.key] for o in objectives}
        row["documents"] = sum(scores.fidelity.values()) if scores else 0
        row["winner"] = history.winner is candidate
        if history.front:
            row["front"] = candidate in history.front
        row["digest"] = candidate.digest
        row["failure"] = candidate.failure
        has_genes = len(candidate.genome) == len(genes)  # a baseline has no genes
        genome = candidate.genome if has_genes else [None] * len(genes)
        row |= {f"gene {name}": value for name, value in zip(genes, genome, strict=True)}
        rows.append(row)
    return rows


def document_rows(history: History) -> list[tuple[Any, ...]]:
    """Return a row of `DOCUMENT_COLUMNS` for each value of a document; see `Run.documents`."""
    rows = list[tuple[Any, ...]]()
    for candidate, split in product((*history.candidates, *history.bases), SPLITS):
        if (scores := candidate.scores(split)) is None:
            continue
        texts = dict[tuple[str, int], tuple[str | None, ...]]()
        for task, right in scores.right.items():
            texts |= {(task, i): (text, None, None) for i, text in right.items()}
        for example in scores.examples:
            texts[example.task, example.document] = (example.answer, example.prompt, example.target)
        for key, values in scores.values.items():
            task, _, metric = key.rpartition("/")
            for document, value in zip(scores.documents[task], values, strict=True):
                known = texts.get((task, document), _NO_TEXTS)
                rows.append((candidate.number, split, task, document, metric, value, *known))
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
        return (f"{name} in %", value and 100 * value) if name in shares else (name, value)

    return [dict(cell(*item) for item in row.items()) for row in rows]


def score_keys(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the scores `task/metric` that rows have columns of."""
    return [name[7:] for name in (rows[0] if rows else ()) if name.startswith("search ")]


def search_score(scores: Scores, objective: Objective) -> float:
    """Return an objective's score on the search documents, or its estimate, in its own sign."""
    known = scores.expected.get(objective.key)
    return scores.aggregates[objective.key] if known is None else known.value


def brief_rows(
    rows: Sequence[dict[str, Any]], objectives: Sequence[Objective]
) -> list[dict[str, Any]]:
    """Return the columns that fit a terminal, without those that are empty in all rows.

    The winner's status is `winner`, local parents have short names, and shares are in per cent.
    """
    names = short_names(row["origin"] for row in rows)
    heads = {name: name for name in _BRIEF}
    if all(row["fitness"] is None for row in rows):  # in a search for a front
        heads |= {f"search {key}": short for key, short in short_scores(score_keys(rows)).items()}
    brief = []
    for row in rows_in_per_cent(rows, objectives):
        plain = {name: name.removesuffix(" in %") for name in row}
        cells = {n.replace(p, heads[p]): row[n] for n, p in plain.items() if p in heads}
        cells["origin"] = names[row["origin"]]
        if row.get("front"):
            cells["status"] = "knee" if row["winner"] else "front"
        elif row["winner"]:
            cells["status"] = "winner"
        brief.append(cells)
    used = [name for name in (brief or [{}])[0] if any(row[name] is not None for row in brief)]
    return [{name: row[name] for name in used} for row in brief]


def best_rows(rows: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Return so many rows, by fitness or, in a search for a front, by the first objective."""
    column = "fitness"
    if rows and all(row["fitness"] is None for row in rows):
        column = next(key for key in rows[0] if key.startswith("search "))
    return sorted(rows, key=lambda row: (row[column] is None, -(row[column] or 0)))[:count]
