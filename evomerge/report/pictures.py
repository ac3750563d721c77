"""The pictures of a run as matplotlib figures, and their style: colours, axes, SVG.

A figure is narrow with large letters, so that it can be read on a phone. A page replaces its
colours by variables of the page, which are other ones on a dark screen.
"""

from __future__ import annotations

import html
import io
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from evomerge.errors import printable, without_controls
from evomerge.report.confidence import factor_of, factor_of_fitness, intervals
from evomerge.report.standings import Standings
from evomerge.run.history import Candidate, History
from evomerge.scores import SPLITS, Objective, Scores, Split
from evomerge.searching.front import nondominated
from evomerge.searching.ranking import Ranking, front_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PALETTE = {
    "ink": ("#1d2733", "#e4e9ee"),
    "soft": ("#51606f", "#a7b3bf"),
    "line": ("#dde3e9", "#33404d"),
    "accent": ("#1f6feb", "#6ea8fe"),
    "warm": ("#b45309", "#f0a04b"),
    "bad": ("#c0392b", "#f28b82"),
    "grey": ("#8b98a5", "#7d8a97"),
    "pale": ("#a9c7f5", "#3a5f94"),
}
"""Name of a colour -> what it is on a light and on a dark screen; figures have the light ones."""

INK, SOFT, LINE, ACCENT, WARM, BAD, GREY, PALE = (light for light, _ in PALETTE.values())
_SPLIT_COLOURS = {"search": GREY, "validation": PALE, "test": ACCENT}


@cache
def _picture() -> Any:
    """Return the class of figures; matplotlib is imported only where one is drawn."""
    from matplotlib.figure import Figure

    class Picture(Figure):
        """A figure that needs no pyplot to be shown in a notebook."""

        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png", dpi=self.dpi)
            return buffer.getvalue()

    return Picture


def new_figure(height: float, width: float = 5.6) -> Figure:
    """Return a matplotlib figure in inches, of which a browser shows 96 pixels each."""
    figure: Figure = _picture()(figsize=(width, height), layout="constrained")
    return figure


def standings_chart(table: Standings) -> Figure:
    """Plot the fitness (or the only metric) of each model with its 95 % interval, by split."""
    column = table.main_column
    factor = table.factor(column)
    labels = [label_text(table.names[row.label], 60) for row in table.rows]
    figure = new_figure(0.9 + 0.5 * max(1, len(labels)))
    axes = _axes(figure, label_text(column, 80) + _unit(factor), grid="x")
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
    _add_legend(figure)
    return figure


def best_so_far(history: History, ranking: Ranking) -> Figure:
    """Plot the fitness of every candidate on the search documents, and the best so far."""
    scored = [item for item in history.candidates if item.fitness is not None]
    every = filter(None, (item.scores("search") for item in scored))
    factor = factor_of_fitness(ranking.objectives, every)
    heights = {item.number: factor * (item.fitness or 0.0) for item in scored}
    figure = new_figure(3.4)
    axes = _axes(figure, "candidate", f"fitness{_unit(factor)}")

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
    if failed := [item.number for item in history.candidates if item.status == "failed"]:
        floor = min(heights.values(), default=0.0)
        axes.plot(failed, [floor] * len(failed), "x", color=BAD, label="failed")
    points([history.winner] if history.winner else [], "*", "winner", color=ACCENT, markersize=13)
    _add_legend(figure)
    return figure


def front_chart(history: History, ranking: Ranking) -> Figure:
    """Plot candidates and the front: the first objective against each other one.

    On the test documents as soon as all members of the front were tried there; else on the search
    documents.
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

    def label(objective: Objective) -> str:
        better = "" if objective.higher_is_better else " (less is better)"
        return label_text(objective.key, 60) + _unit(factors[objective.key]) + better

    for number, other in enumerate(others, start=1):
        axes = _axes(figure, label(other), label(first), panel=(len(others), 1, number))
        axes.set_title(f"on {split} documents", loc="left", fontsize=10, color=SOFT)
        _draw_front(axes, scored, front, split, (other, first), factors)
    _add_legend(figure)
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

    The line has a step between members; those that another one beats on this split are below it.
    """
    across, up = (factors[objective.key] for objective in pair)

    def draw(items: Sequence[Scores], mark: str, colour: str, size: float, label: str) -> None:
        points = [[factors[o.key] * scores.aggregates[o.key] for o in pair] for scores in items]
        if points:
            xs, ys = zip(*points, strict=True)
            axes.plot(xs, ys, mark, color=colour, markersize=size, label=label)
        for scores in items if split == "test" else ():
            x, y = (intervals(pair, scores)[objective.key] for objective in pair)
            if x.has_interval:
                bar = [across * x.low, across * x.high]
                axes.plot(bar, [up * y.value] * 2, color=colour, lw=1)
            if y.has_interval:
                axes.plot([across * x.value] * 2, [up * y.low, up * y.high], color=colour, lw=1)

    merges = [(item in front, scores) for item, scores in scored if item.label is None]
    baselines = [scores for item, scores in scored if item.label is not None]
    draw([scores for is_on, scores in merges if not is_on], "o", GREY, 3.5, "candidate")
    draw(baselines, "D", WARM, 5, "parents, uniform")
    draw([scores for is_on, scores in merges if is_on], "o", ACCENT, 6, "merge on the front")
    signs = [1.0 if objective.higher_is_better else -1.0 for objective in pair]
    values = [tuple(o.value(scores) for o in pair) for item, scores in scored if item in front]
    corners = sorted((across * signs[0] * x, up * signs[1] * y) for x, y in nondominated(values))
    if corners:
        where = "pre" if pair[0].higher_is_better else "post"
        points = zip(*corners, strict=True)
        axes.step(*points, where=where, color=ACCENT, lw=1.5, label="front")


def _axes(
    figure: Any,
    across: str,
    up: str = "",
    *,
    grid: str = "y",
    panel: tuple[int, int, int] = (1, 1, 1),
) -> Any:
    """Return axes of a figure with these labels, and with grid lines across `x` or `y`."""
    axes = figure.add_subplot(*panel)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(colors=INK, labelsize=10, color=LINE)
    axes.grid(visible=False)
    axes.grid(axis=grid, color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel(across, color=INK, fontsize=10)
    axes.set_ylabel(up, color=INK, fontsize=10)
    return axes


def _add_legend(figure: Any) -> None:
    """Put a legend above the axes of a figure, in as many columns as its names have room for."""
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        handles |= dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    columns = max(1, min(3, 66 // max(map(len, handles), default=1)))  # 66 letters fit
    style = {"frameon": False, "fontsize": 10, "labelcolor": INK, "loc": "outside upper left"}
    space = {"ncols": columns, "handletextpad": 0.4, "columnspacing": 1.0}
    figure.legend(handles.values(), handles.keys(), **style, **space)


def _unit(factor: float) -> str:
    return " in %" if factor == 100 else ""


def label_text(label: str, most: int = 34) -> str:
    """Return a label as `plain_text`; the middle of a long one is left out."""
    if len(label) > most:
        label = f"{label[: most // 2 - 1]}…{label[-(most // 2) :]}"
    return plain_text(label)


def plain_text(text: str) -> str:
    """Return one line that matplotlib shows as it is: for it `$` begins a formula."""
    return printable(text, len(text)).replace("$", r"\$")


def svg_text(figure: Any, *, transparent: bool = True) -> str:
    """Return a matplotlib figure as an SVG document, always with the same bytes."""
    import matplotlib as mpl

    buffer = io.StringIO()
    settings: Any = {"svg.hashsalt": "evomerge", "svg.fonttype": "none"}
    with mpl.rc_context(settings), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        figure.savefig(buffer, format="svg", transparent=transparent, metadata={"Date": None})
    return buffer.getvalue()


def inline_svg(name: str, figure: Any, caption: str) -> str:
    """Return a figure as an element of a page, which gives it its colours.

    All ids get the name as a prefix, since matplotlib uses the same ones in all figures. The
    caption is for people who do not see it.
    """
    document = svg_text(figure)
    svg = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", document[document.index("<svg") :])
    for variable, (colour, _) in PALETTE.items():
        svg = svg.replace(colour, f"var(--{variable})")
    label = html.escape(without_controls(caption))
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
