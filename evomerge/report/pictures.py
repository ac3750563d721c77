"""The pictures of a run, as matplotlib figures: standings, course of the search, front, genes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from evomerge.report.confidence import factor_of, factor_of_fitness, intervals
from evomerge.report.figures import (
    ACCENT,
    BAD,
    GREY,
    INK,
    PALE,
    SOFT,
    WARM,
    add_legend,
    label_text,
    make_axes,
    new_axes,
    new_figure,
)
from evomerge.report.standings import Standings
from evomerge.run.history import Candidate, History
from evomerge.scores import SPLITS, Objective, Scores, Split
from evomerge.searching.front import nondominated
from evomerge.searching.ranking import Ranking, front_of

_SPLIT_COLOURS = {"search": GREY, "validation": PALE, "test": ACCENT}


def standings_chart(table: Standings) -> Any:
    """Plot the fitness (or the only metric) of each model with its 95 % interval, by split."""
    column = table.main_column
    factor = table.factor(column)
    labels = [label_text(table.names[row.label], 60) for row in table.rows]
    below = label_text(column, 80) + _unit(factor)
    figure, axes = new_axes(0.9 + 0.5 * max(1, len(labels)), below)
    make_axes(axes, "x")
    for offset, split in enumerate(SPLITS):
        colour = _SPLIT_COLOURS[split]
        axes.plot([], [], "o-", color=colour, label=split)
        for index, row in enumerate(table.rows):
            item = row.estimates.get((split, column))
            if item is None or not math.isfinite(item.value):
                continue
            y = index + (offset - 1) * 0.22
            if item.has_interval:
                axes.plot([factor * item.low, factor * item.high], [y, y], color=colour, lw=2)
            axes.plot(factor * item.value, y, "o", color=colour, markersize=6)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    add_legend(figure)
    return figure


def best_so_far(history: History, ranking: Ranking) -> Any:
    """Plot the fitness of every candidate on the search documents, and the best so far."""
    scored = [item for item in history.candidates if item.fitness is not None]
    every = filter(None, (item.scores("search") for item in scored))
    factor = factor_of_fitness(ranking.objectives, every)
    heights = {item.number: factor * (item.fitness or 0.0) for item in scored}
    figure, axes = new_axes(3.4, "candidate", f"fitness{_unit(factor)}")

    def points(items: Sequence[Candidate], mark: str, label: str, **style: Any) -> None:
        if items:
            numbers = [item.number for item in items]
            axes.plot(numbers, [heights[n] for n in numbers], mark, label=label, **style)

    searched = [item for item in scored if item.label is None]
    grey: dict[str, Any] = {"color": GREY, "markersize": 3.5}
    points([i for i in searched if not i.is_estimate], "o", "candidate", **grey)
    points([i for i in searched if i.is_estimate], "o", "estimated", fillstyle="none", **grey)
    others = [item for item in scored if item.label is not None]
    points(others, "D", "parents, uniform", color=WARM, markersize=5)
    sure = (-math.inf if item.is_estimate else heights[item.number] for item in scored)
    line = list(accumulate(sure, max))
    axes.step(list(heights), line, where="post", color=ACCENT, label="best so far")
    failed = [item.number for item in history.candidates if item.status == "failed"]
    if failed:
        floor = min(heights.values(), default=0.0)
        axes.plot(failed, [floor] * len(failed), "x", color=BAD, label="failed")
    points([history.winner] if history.winner else [], "*", "winner", color=ACCENT, markersize=13)
    add_legend(figure)
    return figure


def genome_bars(names: Sequence[str], genome: Sequence[float]) -> Any:
    """Plot a value of each gene as a bar with its name."""
    figure, axes = new_axes(0.9 + 0.3 * max(1, len(genome)), "value")
    make_axes(axes, "x")
    axes.barh(range(len(genome)), genome, color=ACCENT, height=0.7)
    axes.set_yticks(range(len(genome)), list(map(label_text, names)), fontsize=10)
    axes.invert_yaxis()
    return figure


def front_chart(history: History, ranking: Ranking) -> Any:
    """Plot candidates and the front: the first objective against each other one.

    On the test documents, where the finalists have scores, as soon as all members of the front were
    tried there; before that, on the search documents.
    """
    first, *others = ranking.objectives
    figure, front = new_figure(3.6 * len(others)), front_of(history, ranking)
    has_test = any(item.scores("test") for item in front)
    is_tested = has_test and all("test" in item.outcomes for item in front)
    split: Split = "test" if is_tested else "search"
    scored = [(i, scores) for i in history.candidates if (scores := i.scores(split)) is not None]
    factors = {
        item.key: factor_of((scores.aggregates[item.key] for _, scores in scored), item.key)
        for item in ranking.objectives
    }
    for place, other in enumerate(others, start=1):
        axes = make_axes(figure.add_subplot(len(others), 1, place))
        axes.set_title(f"on {split} documents", loc="left", fontsize=10, color=SOFT)
        _draw_front(axes, scored, front, split, (other, first), factors)
        for objective, set_label in ((other, axes.set_xlabel), (first, axes.set_ylabel)):
            better = "" if objective.higher_is_better else " (less is better)"
            name = label_text(objective.key, 60)
            set_label(name + _unit(factors[objective.key]) + better, color=INK, fontsize=10)
    add_legend(figure)
    return figure


def _draw_front(
    axes: Any,
    scored: Sequence[tuple[Candidate, Scores]],
    front: Sequence[Candidate],
    split: Split,
    pair: tuple[Objective, Objective],
    factors: Mapping[str, float],
) -> None:
    """Draw scored candidates and the front in the plane of two objectives: horizontal, vertical.

    The line has a step between members: what is between two of them, no merge is known to reach.
    Members that another one beats on this split are below it.
    """
    across, up = (factors[objective.key] for objective in pair)

    def draw(items: Sequence[Scores], mark: str, colour: str, size: float, label: str) -> None:
        points = [[factors[o.key] * scores.aggregates[o.key] for o in pair] for scores in items]
        if points:
            named = {"markersize": size, "label": label}
            axes.plot(*zip(*points, strict=True), mark, color=colour, **named)
        for scores in items if split == "test" else ():
            x, y = (intervals(pair, scores)[objective.key] for objective in pair)
            if x.has_interval:
                ends = [across * x.low, across * x.high]
                axes.plot(ends, [up * y.value] * 2, color=colour, lw=1)
            if y.has_interval:
                axes.plot([across * x.value] * 2, [up * y.low, up * y.high], color=colour, lw=1)

    on_front = [scores for item, scores in scored if item in front]
    merges = [(item in front, scores) for item, scores in scored if item.label is None]
    baselines = [scores for item, scores in scored if item.label is not None]
    draw([scores for is_on, scores in merges if not is_on], "o", GREY, 3.5, "candidate")
    draw(baselines, "D", WARM, 5, "parents, uniform")
    draw([scores for is_on, scores in merges if is_on], "o", ACCENT, 6, "merge on the front")
    signs = [1.0 if objective.higher_is_better else -1.0 for objective in pair]
    values = [tuple(o.value(scores) for o in pair) for scores in on_front]
    corners = sorted((across * signs[0] * x, up * signs[1] * y) for x, y in nondominated(values))
    if corners:
        where = "pre" if pair[0].higher_is_better else "post"
        places = zip(*corners, strict=True)
        axes.step(*places, where=where, color=ACCENT, lw=1.5, label="front")


def _unit(factor: float) -> str:
    return " in %" if factor == 100 else ""
