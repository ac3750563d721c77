"""The rows of results: of candidates, of their documents, and one for each search of many runs."""

import json
import math
import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

from evomerge.config.schema import SearchConfig
from evomerge.errors import InputError
from evomerge.report.confidence import (
    factor_of,
    factor_of_fitness,
    fitness_interval,
    mean_over_runs,
)
from evomerge.report.view import View
from evomerge.run.folder import RunFolder
from evomerge.run.history import History
from evomerge.scores import SPLITS, Objective, Scores, Split, fitness, fitness_error
from evomerge.space.baselines import UNIFORM

FINAL_SPLITS: tuple[Split, ...] = ("validation", "test")

DOCUMENT_COLUMNS = (
    *("candidate", "split", "task", "document", "metric", "value"),
    *("text", "prompt", "target"),
)
_NO_TEXTS = (None,) * 3

_OF_A_RUN = {"seed", "executor"}
"""Sections in which runs of one search file may differ."""


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


def document_rows(history: History) -> list[tuple[Any, ...]]:
    """Return a row of `DOCUMENT_COLUMNS` for each value of a document; see `Run.documents`."""
    rows = list[tuple[Any, ...]]()
    for item, split in product((*history.candidates, *history.bases), SPLITS):
        if (scores := item.scores(split)) is None:
            continue
        texts = dict[tuple[str, int], tuple[str | None, ...]]()
        for task, right in scores.right.items():
            texts |= {(task, i): (text, None, None) for i, text in right.items()}
        for of in scores.examples:
            texts[of.task, of.document] = (of.answer, of.prompt, of.target)
        for key, values in scores.values.items():
            task, _, metric = key.rpartition("/")
            for document, value in zip(scores.documents[task], values, strict=True):
                known = texts.get((task, document), _NO_TEXTS)
                rows.append((item.number, split, task, document, metric, value, *known))
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


def searches_of(folders: Sequence[Path]) -> dict[str, list[View]]:
    """Return the runs of each search file, which differ in their seeds, by the file's name.

    InputError: a folder is no run, or two are the same search with the same seed.
    """
    groups: dict[str, dict[int, View]] = {}
    for folder in folders:
        view = View.of(RunFolder(folder))
        group = groups.setdefault(_course(view.config), {})
        if (other := group.setdefault(view.config.seed, view)) is not view:
            raise InputError(
                f"{other.run.path} and {folder} are the same search with the same seed, so they "
                "count once; give one of them."
            )
    searches = [list(group.values()) for group in groups.values()]
    names = [_name(views[0]) for views in searches]
    if len(set(names)) < len(names):
        names = [f"{_name(views[0])} {views[0].config.optimizer.name}" for views in searches]
    if len(set(names)) < len(names):
        names = [" ".join(str(view.run.path) for view in views) for views in searches]
    return dict(zip(names, searches, strict=True))


def _course(config: SearchConfig) -> str:
    """Return what determines the course of a search with any seed.

    Runs of before fresh documents say `auto` where later ones say null or false.
    """
    course = config.model_dump(mode="json", exclude=_OF_A_RUN)
    search, racing = course["evaluation"]["search"], course["evaluation"]["racing"]
    search["fresh"] = search["fresh"] if isinstance(search["fresh"], int) else None
    course["evaluation"]["racing"] = racing if racing["enabled"] is True else None
    return json.dumps(course, sort_keys=True)


def run_rows(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Return a row for each search file, with means over its runs.

    `seeds` is the number of runs that have ended. `score` is the mean of their winners' fitness on
    test documents with its 95 % interval (`mean_over_runs`), None for searches for a front.
    `percent` says whether scores are shares, which people read in per cent. InputError: as of
    `searches_of`.
    """
    return [{"search": name} | _row(views) for name, views in searches_of(folders).items()]


def _name(view: View) -> str:
    """Return the name of a run folder without the seed; if that is all, the folder around it."""
    folder = view.run.path.resolve()
    return re.sub(rf"(^|[-_.]){view.config.seed}$", "", folder.name) or folder.parent.name


def _row(views: Sequence[View]) -> dict[str, Any]:
    ranking, is_share, score = views[0].ranking, False, None
    winners = [it for view in views if (it := view.history.winner) and it.scores("test")]
    tests = [scores for item in winners if (scores := item.scores("test")) is not None]
    if tests and not ranking.has_front:
        is_share = factor_of_fitness(ranking.objectives, tests) == 100
        bounds = (0.0, 1.0) if is_share else (-math.inf, math.inf)
        known = [fitness_interval(ranking.objectives, scores) for scores in tests]
        score = mean_over_runs(known, *bounds)
    return {
        "objective": ", ".join(item.key for item in ranking.objectives),
        "percent": is_share,
        "seeds": len(tests),
        "runs": len(views),
        "merges_won": sum(item.label is None for item in winners),
        "score": score and score.value,
        "low": score and score.low,
        "high": score and score.high,
        "best_parent": _baseline(views, is_uniform=False),
        "uniform": _baseline(views, is_uniform=True),
        "candidates": fmean(len(view.history.candidates) for view in views),
        "cpu_seconds": fmean(view.run.timings.cpu_seconds() for view in views),
    }


def _baseline(views: Sequence[View], *, is_uniform: bool) -> float | None:
    """Return the mean fitness on test documents of the uniform merge, or of the best parent."""
    best = []
    for view in views:
        values = [
            fitness(view.ranking.objectives, scores)
            for item in view.history.baselines
            if (item.label == UNIFORM) == is_uniform and (scores := item.scores("test")) is not None
        ]
        best += [max(values)] if values and not view.ranking.has_front else []
    return fmean(best) if best else None
