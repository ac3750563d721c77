"""The pictures of a search for a front, as matplotlib figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evomerge.report.colours import ACCENT, GREY, INK, LINE, WARM
from evomerge.report.confidence import factor_of, intervals
from evomerge.report.pictures import add_legend, make_axes, plain_text, short_label
from evomerge.run.history import Candidate, History
from evomerge.scores import Objective
from evomerge.searching.front import hypervolume
from evomerge.searching.ranking import Ranking, front_of


def front_chart(history: History, ranking: Ranking) -> Any:
    """Plot the candidates and the front: the first objective against each other one.

    Candidates are drawn with their scores on the search documents; the front with its scores on the
    test documents and 95 % intervals, as soon as all of its members have them.
    """
    from matplotlib.figure import Figure

    first, *others = ranking.objectives
    figure = Figure(figsize=(5.6, 3.4 * len(others)), layout="constrained")
    front = front_of(history, ranking)
    scores = {
        item.number: found
        for item in history.candidates
        if (found := item.scores("search")) is not None
    }
    scored = [item for item in history.candidates if item.number in scores]
    factors = {
        item.key: factor_of(found.aggregates[item.key] for found in scores.values())
        for item in ranking.objectives
    }
    for place, other in enumerate(others, start=1):
        axes = make_axes(figure.add_subplot(len(others), 1, place))
        _draw(axes, scored, front, (other, first), factors)
        for objective, name in ((other, "x"), (first, "y")):
            unit = " in %" if factors[objective.key] == 100 else ""
            better = "" if objective.higher_is_better else " (less is better)"
            getattr(axes, f"set_{name}label")(
                plain_text(short_label(objective.key, 60)) + unit + better, color=INK, fontsize=10
            )
    add_legend(figure)
    return figure


def _draw(
    axes: Any,
    scored: Sequence[Candidate],
    front: Sequence[Candidate],
    pair: tuple[Objective, Objective],
    factors: dict[str, float],
) -> None:
    """Draw candidates and the front in the plane of two objectives: horizontal, vertical."""

    def point(candidate: Candidate, split: Any) -> list[float]:
        scores = candidate.scores(split)
        assert scores is not None
        return [factors[item.key] * scores.aggregates[item.key] for item in pair]

    searched = [point(item, "search") for item in scored if item.label is None]
    baselines = [point(item, "search") for item in scored if item.label is not None]
    if searched:
        axes.plot(*zip(*searched, strict=True), "o", color=GREY, markersize=3.5, label="candidate")
    if baselines:
        axes.plot(
            *zip(*baselines, strict=True), "D", color=WARM, markersize=5, label="parents, uniform"
        )
    split = "test" if front and all(item.scores("test") for item in front) else "search"
    points = sorted(point(item, split) for item in front)
    if points:
        label = "front" if split == "search" else "front, on test documents"
        axes.plot(*zip(*points, strict=True), "o-", color=ACCENT, markersize=6, label=label)
    for item in front if split == "test" else ():
        scores = item.scores("test")
        assert scores is not None
        found = intervals(pair, scores)
        x, y = (found[objective.key] for objective in pair)
        across, up = (factors[objective.key] for objective in pair)
        if x.has_interval:
            axes.plot([across * x.low, across * x.high], [up * y.value] * 2, color=ACCENT, lw=1)
        if y.has_interval:
            axes.plot([across * x.value] * 2, [up * y.low, up * y.high], color=ACCENT, lw=1)


def hypervolume_so_far(history: History, ranking: Ranking) -> Any:
    """Plot how much of the space of objectives the front dominates, over the candidates.

    The space is the box from the lowest to the highest value of each objective that any candidate
    reached; the hypervolume is the share of it in which some candidate is better.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 2.8), layout="constrained")
    axes = make_axes(figure.add_subplot())
    numbers, shares = hypervolumes(history, ranking)
    axes.step(numbers, shares, where="post", color=ACCENT)
    axes.set_ylim(0, 1)
    axes.set_xlabel("candidate", color=INK, fontsize=10)
    axes.set_ylabel("hypervolume", color=INK, fontsize=10)
    axes.grid(axis="y", color=LINE, linewidth=0.8)
    return figure


def hypervolumes(history: History, ranking: Ranking) -> tuple[list[int], list[float]]:
    """Return the numbers of the scored candidates, and the hypervolume after each of them."""
    scored = [item for item in history.candidates if item.values is not None]
    values = [item.values or () for item in scored]
    if not values:
        return [], []
    lowest = tuple(map(min, zip(*values, strict=True)))
    highest = tuple(map(max, zip(*values, strict=True)))
    shares, front, known = [], list[Candidate](), 0.0
    for item in scored:
        grown = ranking.incumbents([*front, item])
        if grown != front:
            front = grown
            known = hypervolume([member.values or () for member in front], lowest, highest)
        shares.append(known)
    return [item.number for item in scored], shares
