"""The hypervolume of fronts: the share of a box of scores that their candidates dominate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from evomerge.errors import InputError, listed
from evomerge.run.history import History
from evomerge.run.ranking import Ranking, front_of
from evomerge.scores import Objective, Split

Box = Mapping[str, tuple[float, float]]
"""`task/metric` -> its worst and best value in the box, in the metric's own sign and unit."""


def split_of_front(history: History, ranking: Ranking) -> Split:
    """Return `test` if every member of the front has test scores, else `search`."""
    front = front_of(history, ranking)
    return "test" if front and all("test" in one.outcomes for one in front) else "search"


def box_of(runs: Iterable[tuple[History, Ranking]], split: Split) -> Box:
    """Return the box from the worst to the best score of all candidates of runs."""
    values: dict[str, list[float]] = {}
    minimized = set[str]()
    for history, ranking in runs:
        for objective in ranking.objectives:
            scores = (one.scores(split) for one in history.candidates)
            values.setdefault(objective.key, []).extend(
                one.aggregates[objective.key] for one in scores if one is not None
            )
            minimized |= set() if objective.higher_is_better else {objective.key}
    return {
        key: (max(column), min(column)) if key in minimized else (min(column), max(column))
        for key, column in values.items()
        if column
    }


def hypervolume(history: History, ranking: Ranking, box: Box, split: Split) -> float:
    """Return the share of a box that the front of a run dominates, from 0 to 1.

    A score beyond the box counts as its edge (Zitzler and Thiele 1999, by pymoo).

    Raises:
        InputError: the box lacks an objective, has another key, or an empty range.
    """
    from pymoo.indicators.hv import HV

    objectives = ranking.objectives
    _check(box, objectives)
    members = (one.scores(split) for one in front_of(history, ranking))
    points = [[one.aggregates[o.key] for o in objectives] for one in members if one is not None]
    if not points:
        return 0.0
    worst, best = (np.array([box[o.key][end] for o in objectives]) for end in (0, 1))
    shares = np.clip((np.array(points) - worst) / (best - worst), 0.0, 1.0)
    return float(HV(ref_point=np.ones(len(objectives)))(1.0 - shares))


def _check(box: Box, objectives: Sequence[Objective]) -> None:
    keys = {objective.key: objective.higher_is_better for objective in objectives}
    if keys.keys() != box.keys():
        raise InputError(
            f"box has {listed(box)}; it must have a pair for each objective: {listed(keys)}."
        )
    for key, (worst, best) in box.items():
        if worst == best or (worst < best) != keys[key]:
            more, order = ("better", "above") if keys[key] else ("worse", "below")
            raise InputError(
                f"box has {(worst, best)} for {key!r}, where more is {more}; give (worst, best), "
                f"with best {order} worst."
            )
