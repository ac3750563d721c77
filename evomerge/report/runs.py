"""Runs of several seeds and search files in one table."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from evomerge.config.schema import SearchConfig
from evomerge.errors import InputError
from evomerge.report.confidence import (
    Interval,
    factor_of_fitness,
    fitness_interval,
    mean_over_runs,
)
from evomerge.report.view import View
from evomerge.run.folder import RunFolder
from evomerge.space.baselines import UNIFORM

_OF_A_RUN = {"seed", "executor"}
"""Sections in which runs of one search file may differ."""

_SCORES = ("score", "best_parent", "uniform")
_COSTS = ("candidates", "CPU s")


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
    winners = [w for view in views if (w := view.history.winner) and w.scores("test")]
    tests = [scores for winner in winners if (scores := winner.scores("test")) is not None]
    if tests and winners[0].fitness is not None:  # of a front there is none
        is_share = factor_of_fitness(ranking.objectives, tests) == 100
        bounds = (0.0, 1.0) if is_share else (-math.inf, math.inf)
        known = [fitness_interval(ranking.objectives, scores) for scores in tests]
        score = mean_over_runs(known, *bounds)
    return {
        "objective": ", ".join(objective.key for objective in ranking.objectives),
        "percent": is_share,
        "seeds": len(tests),
        "runs": len(views),
        "merges_won": sum(winner.label is None for winner in winners),
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
    best = list[float]()
    for view in views:
        values = [
            view.ranking.values(scores)
            for baseline in view.history.baselines
            if (baseline.label == UNIFORM) == is_uniform
            and (scores := baseline.scores("test")) is not None
        ]
        best += max(values) if values and len(values[0]) == 1 else ()
    return fmean(best) if best else None


def runs_in_words(rows: Sequence[Mapping[str, Any]]) -> tuple[Sequence[str], list[list[str]]]:
    """Return headers and rows for people; of `2 of 3` runs one has not ended."""
    lines, scored = [], dict[str, None]()
    for row in rows:
        seeds, factor = str(row["seeds"]), 100.0 if row["percent"] else 1.0
        if row["seeds"] < row["runs"]:
            seeds += f" of {row['runs']}"
        scores = [Interval(math.nan if row[name] is None else row[name]) for name in _SCORES]
        if row["score"] is not None:
            scores[0] = Interval(row["score"], row["low"], row["high"])
        texts = (score.text(factor) for score in scores)
        costs = (f"{row[name]:,.0f}" for name in ("candidates", "cpu_seconds"))
        lines.append([row["search"], seeds, str(row["merges_won"]), *texts, *costs])
        metric = "fitness" if ", " in row["objective"] else row["objective"].rpartition("/")[2]
        scored[f"{metric} in %" if row["percent"] else metric] = None
    test = f"test {' or '.join(scored)}"
    return ("search", "seeds", "merges won", test, "best parent", "uniform", *_COSTS), lines
