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
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, partial
from itertools import accumulate, cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from evomerge.errors import printable, without_controls
from evomerge.report.confidence import Interval, factor_of, factor_of_fitness, intervals
from evomerge.report.fronts import split_of_front
from evomerge.report.standings import Standings
from evomerge.run.history import Candidate, History
from evomerge.run.ranking import Ranking, best_of, front_of
from evomerge.scores import SPLITS, Scores, Split
from evomerge.words import shown_score

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
TEXT: Any = {"fontsize": 10, "color": INK}
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


def new_figure(height: float, panels: Sequence[float] = (1,)) -> tuple[Figure, list[Any]]:
    """Return a matplotlib figure, its height in inches, and its axes of these relative heights."""
    figure: Figure = _picture()(figsize=(5.6, height), layout="constrained")
    every = list(figure.subplots(len(panels), 1, squeeze=False, height_ratios=panels)[:, 0])
    for axes in every:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(LINE)
        axes.tick_params(colors=INK, labelsize=10, color=LINE)
        axes.grid(visible=False)
        axes.set_axisbelow(True)
    return figure, every


def standings_chart(table: Standings) -> Figure:
    """Plot the fitness (or the only metric) of each model with its 95 % interval, by split."""
    column = table.main_column
    labels = [label_text(table.names[row.label], 60) for row in table.rows]
    figure, (axes,) = new_figure(0.9 + 0.5 * max(1, len(labels)))
    axes.grid(axis="x", color=LINE)
    for offset, split in enumerate(SPLITS, start=-1):
        known = [row.estimates.get((split, column), Interval(math.nan)) for row in table.rows]
        heights = [number + 0.22 * offset for number in range(len(labels))]
        values, bars = _with_bars(known, factor := table.factor(column))
        style = {"color": _SPLIT_COLOURS[split], "label": split}
        axes.errorbar(values, heights, xerr=bars, fmt="o", lw=2, **style)
    estimates = (item for row in table.rows for item in row.estimates.items())
    _keep_whole(axes.xaxis, (item.value for (_, key), item in estimates if key == column))
    low, high = axes.get_xlim()
    if factor == 100 and high > 90:  # a share ends at a tick, with room for a mark on it
        axes.set_xlim(right=100 + 0.02 * (100 - low))
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_xlabel(label_text(shown_score(column), 80) + _unit(factor), **TEXT)
    add_legend(figure)
    return figure


def _keep_whole(axis: Any, values: Iterable[float]) -> None:
    """Let an axis of whole numbers above 1, such as numbers of layers, have no other ticks."""
    known = [float(value) for value in values if not math.isnan(value)]
    if all(map(float.is_integer, known)) and max(known, default=0.0) > 1:
        axis.get_major_locator().set_params(integer=True)


def _with_bars(
    estimates: Sequence[Interval], factor: float
) -> tuple[list[float], list[list[float]]]:
    """Return values times a factor, and how far the ends of their intervals are below and above."""
    below = [abs(factor * (one.value - one.low)) for one in estimates]
    above = [abs(factor * (one.high - one.value)) for one in estimates]
    return [factor * one.value for one in estimates], [below, above]


def candidates_charts(history: History, ranking: Ranking) -> dict[str, Figure]:
    """Return the picture of all candidates, by its name: `front`, or `course` of one fitness."""
    if ranking.has_front:
        return {"front": front_chart(history, ranking)}
    return {"course": best_so_far(history, ranking)}


def best_so_far(history: History, ranking: Ranking) -> Figure:
    """Plot the fitness of every candidate on the search documents, and the best so far."""
    scored = [one for one in history.candidates if one.fitness is not None]
    factor = _factor(history, ranking)
    heights = {one.number: factor * (one.fitness or 0.0) for one in scored}
    figure, axes = _course_axes(f"fitness{_unit(factor)}")

    def points(candidates: Sequence[Candidate], mark: str, label: str, **style: Any) -> None:
        if candidates:
            numbers = [one.number for one in candidates]
            axes.plot(numbers, [heights[n] for n in numbers], mark, label=label, **style)

    searched = [one for one in scored if one.label is None]
    grey: dict[str, Any] = {"color": GREY, "markersize": 3.5}
    points([i for i in searched if not i.is_estimate], "o", "candidate", **grey)
    points([i for i in searched if i.is_estimate], "o", "estimated", fillstyle="none", **grey)
    others = [one for one in scored if one.label is not None]
    points(others, "D", "parents, uniform", color=WARM, markersize=5)
    line = [factor * best for best in _course(history)]
    axes.step(range(len(line)), line, where="post", color=ACCENT, label="best so far")
    if failed := [one.number for one in history.candidates if one.status == "failed"]:
        floor = min(heights.values(), default=0.0)
        axes.plot(failed, [floor] * len(failed), "x", color=BAD, label="failed")
    points([history.winner] if history.winner else [], "*", "winner", color=ACCENT, markersize=13)
    add_legend(figure)
    return figure


def courses_chart(searches: Mapping[str, Sequence[tuple[History, Ranking]]]) -> Figure:
    """Plot the best fitness so far of searches, a line for the mean over the runs of each.

    A band goes from the lowest to the highest run. A line ends where its shortest run ends.
    """
    factor = min(_factor(*run) for runs in searches.values() for run in runs)
    figure, axes = _course_axes(f"best fitness so far{_unit(factor)}")
    for (name, runs), style in zip(searches.items(), cycle(("-", "--", "-.", ":"))):
        begun = [course for history, _ in runs if (course := _course(history))]
        table = factor * np.array([*zip(*begun, strict=False)]).reshape(-1, max(1, len(begun)))
        label = f"{label_text(name)}, {len(begun)} run{'s'[: len(begun) != 1]}"
        (line,) = axes.plot(table.mean(1), style, drawstyle="steps-post", label=label)
        band: dict[str, Any] = {"step": "post", "color": line.get_color(), "alpha": 0.15, "lw": 0}
        axes.fill_between(range(len(table)), table.min(1), table.max(1), **band)
    add_legend(figure)
    return figure


def _course_axes(name: str) -> tuple[Figure, Any]:
    """Return a figure and its axes: something with this name over candidates."""
    figure, (axes,) = new_figure(3.4)
    axes.grid(axis="y", color=LINE)
    axes.set_xlabel("candidate", **TEXT)
    axes.set_ylabel(name, **TEXT)
    axes.xaxis.get_major_locator().set_params(integer=True)
    return figure, axes


def _factor(history: History, ranking: Ranking) -> float:
    scores = filter(None, (candidate.scores("search") for candidate in history.candidates))
    return factor_of_fitness(ranking.objectives, scores)


def _course(history: History) -> list[float]:
    """Return the best fitness so far at each candidate, nan before the first; no estimates."""
    sure = (
        math.nan if candidate.fitness is None or candidate.is_estimate else candidate.fitness
        for candidate in history.candidates
    )
    return list(accumulate(sure, np.fmax))


def front_chart(
    history: History,
    ranking: Ranking,
    labels: str | None = "knee",
    split: Split | None = None,
) -> Figure:
    """Plot candidates and the front: the first objective against each other one.

    Args:
        labels: `knee`, `front` or `all` candidates have their numbers beside them.
        split: the documents; None: the test's, with 95 % intervals, as soon as all members of the
            front were tried there, else the search documents, on which all candidates are.
    """
    first, *others = ranking.objectives
    front = front_of(history, ranking)
    split = split or split_of_front(history, ranking)
    scored = [(i, scores) for i in history.candidates if (scores := i.scores(split)) is not None]
    merges = [(one, scores) for one, scores in scored if one.label is None]
    groups: list[tuple[str, str, str, float, list[Scores]]] = [
        ("candidate", "o", GREY, 3.5, [s for one, s in merges if one not in front]),
        ("parents, uniform", "D", WARM, 5, [s for one, s in scored if one.label is not None]),
        ("merge on the front", "o", ACCENT, 6, [s for one, s in merges if one in front]),
    ]
    members = [(one, scores) for one, scores in scored if one in front]
    knees = [pair for pair in members if pair[0] is best_of(history, ranking)]
    labelled = {"knee": knees, "front": members, "all": scored}.get(labels or "", [])
    figure, panels = new_figure(3.6 * len(others), [1.0] * len(others))
    for axes, other in zip(panels, others, strict=True):
        pair, factors = (other, first), list[float]()
        for axis, objective in zip((axes.xaxis, axes.yaxis), pair, strict=True):
            values = [scores.aggregates[objective.key] for _, scores in scored]
            factors.append(factor := factor_of(values, objective.key))
            _keep_whole(axis, values)
            better = "" if objective.higher_is_better else " (less is better)"
            axis.set_label_text(
                label_text(shown_score(objective.key), 60) + _unit(factor) + better, **TEXT
            )
        for label, mark, colour, size, group in groups:
            estimates = [intervals(pair, scores) for scores in group]
            (x, across), (y, up) = (
                _with_bars([one[objective.key] for one in estimates], factor)
                for objective, factor in zip(pair, factors, strict=True)
            )
            bars = {"xerr": across, "yerr": up, "elinewidth": 1} if split == "test" else {}
            if group:
                axes.errorbar(x, y, fmt=mark, color=colour, ms=size, label=label, **bars)
        point_of = partial(_point, (other.key, first.key), factors)
        if len(others) == 1:  # of more objectives a projection is no line
            line = sorted(point_of(scores) for _, scores in members)
            axes.plot(*zip(*line, strict=True) if line else ((), ()), color=ACCENT, lw=1, zorder=1)
        for _, scores in knees:
            knee = {"ms": 11, "mfc": "none", "label": "knee"}
            axes.plot(*point_of(scores), "o", color=ACCENT, **knee)
        numbers: dict[tuple[float, ...], list[int]] = {}
        for one, scores in labelled:
            numbers.setdefault(tuple(point_of(scores)), []).append(one.number)
        for point, (number, *more) in numbers.items():
            offset: Any = {"xytext": (6, 5), "textcoords": "offset points"}
            text = f"{number} +{len(more)}" if more else str(number)
            axes.annotate(text, point, fontsize=9, color=INK, **offset)
        axes.margins(x=0.1)
        axes.grid(axis="y", color=LINE)
        axes.set_title(f"on {split} documents", loc="left", fontsize=10, color=SOFT)
    add_legend(figure)
    return figure


def _point(keys: Sequence[str], factors: Sequence[float], scores: Scores) -> list[float]:
    """Return the point of scores in a chart of two objectives, as x and y."""
    return [scores.aggregates[key] * factor for key, factor in zip(keys, factors, strict=True)]


def add_legend(figure: Any) -> None:
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
    """Return a label as `plain_text`; the knees of a long one is left out."""
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
