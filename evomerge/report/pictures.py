"""The pictures of a run, as matplotlib figures: standings, course of the search, genes.

A figure is 5.6 inches wide with large letters, so that it can be read on a phone. Its colours are
those of `evomerge.report.colours`, which a page replaces by its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from evomerge.errors import printable
from evomerge.report.colours import ACCENT, BAD, GREY, INK, LINE, PALE, SOFT, WARM
from evomerge.report.confidence import factor_of
from evomerge.report.standings import Standings
from evomerge.report.verdict import main_column
from evomerge.run.history import Candidate, History
from evomerge.scores import SPLITS

_SPLIT_COLOURS = {"search": GREY, "validation": PALE, "test": ACCENT}
_MOST_GENES = 40  # of one picture with names


def make_axes(axes: Any) -> Any:
    """Return axes in the style of a report."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(colors=INK, labelsize=10, color=LINE)
    axes.grid(axis="y", color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    return axes


def _axes(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, height), layout="constrained")
    return figure, make_axes(figure.add_subplot())


def add_legend(figure: Any) -> None:
    """Put a legend above the axes of a figure."""
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        handles |= dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(
        handles.values(),
        handles.keys(),
        frameon=False,
        fontsize=10,
        labelcolor=INK,
        loc="outside upper left",
        ncols=3,
        handletextpad=0.4,
        columnspacing=1.0,
    )


def standings_chart(table: Standings) -> Any:
    """Plot the fitness (or the only metric) of each model with its 95 % interval, by split."""
    column = main_column(table)
    factor = table.factor(column)
    labels = [plain_text(short_label(table.names[row.label], 60)) for row in table.rows]
    figure, axes = _axes(0.9 + 0.5 * max(1, len(labels)))
    axes.grid(visible=False)
    axes.grid(axis="x", color=LINE, linewidth=0.8)
    for offset, split in enumerate(SPLITS):
        for index, row in enumerate(table.rows):
            item = row.estimates.get((split, column))
            if item is None or not math.isfinite(item.value):
                continue
            y = index + (offset - 1) * 0.22
            if item.has_interval:
                bounds = [factor * item.low, factor * item.high]
                axes.plot(bounds, [y, y], color=_SPLIT_COLOURS[split], linewidth=2)
            axes.plot(factor * item.value, y, "o", color=_SPLIT_COLOURS[split], markersize=6)
    for split in SPLITS:
        axes.plot([], [], "o-", color=_SPLIT_COLOURS[split], label=split)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    below = plain_text(short_label(column, 80))
    axes.set_xlabel(below + (" in %" if factor == 100 else ""), color=INK, fontsize=10)
    add_legend(figure)
    return figure


def best_so_far(history: History) -> Any:
    """Plot the fitness of every candidate on the search documents, and the best so far."""
    finished = [item for item in history.candidates if item.fitness is not None]
    factor = factor_of(item.fitness or 0.0 for item in finished)

    figure, axes = _axes(3.4)

    def points(items: Sequence[Candidate], mark: str, label: str, **style: Any) -> None:
        if items:
            heights = [factor * (item.fitness or 0.0) for item in items]
            axes.plot([item.number for item in items], heights, mark, label=label, **style)

    searched = [item for item in finished if item.is_proposed]
    points(
        [item for item in searched if not item.is_estimate],
        "o",
        "candidate",
        color=GREY,
        markersize=3.5,
    )
    points(
        [item for item in searched if item.is_estimate],
        "o",
        "estimated",
        color=GREY,
        markersize=3.5,
        fillstyle="none",
    )
    points(
        [item for item in finished if not item.is_proposed],
        "D",
        "parents, uniform",
        color=WARM,
        markersize=5,
    )
    best, line = -math.inf, []
    for item in finished:
        best = best if item.is_estimate else max(best, item.fitness or 0.0)
        line.append(factor * best)
    numbers = [item.number for item in finished]
    axes.step(numbers, line, where="post", color=ACCENT, label="best so far")
    failed = [item.number for item in history.candidates if item.status == "failed"]
    if failed:
        floor = min((factor * (item.fitness or 0.0) for item in finished), default=0.0)
        axes.plot(failed, [floor] * len(failed), "x", color=BAD, label="failed")
    if history.winner is not None:
        points([history.winner], "*", "winner", color=ACCENT, markersize=13)
    axes.set_xlabel("candidate", color=INK, fontsize=10)
    axes.set_ylabel("fitness" + (" in %" if factor == 100 else ""), color=INK, fontsize=10)
    add_legend(figure)
    return figure


def spread_of_generations(history: History) -> Any | None:
    """Plot the median, quartiles and range of the fitness of each generation.

    Returns:
        None if there are fewer than two generations of several candidates.
    """
    by_generation: dict[int, list[float]] = {}
    for item in history.candidates:
        if item.generation is not None and item.fitness is not None:
            by_generation.setdefault(item.generation, []).append(item.fitness)
    if sum(len(values) > 1 for values in by_generation.values()) < 2:
        return None
    import numpy as np

    factor = factor_of(value for values in by_generation.values() for value in values)
    figure, axes = _axes(2.6)
    numbers = sorted(by_generation)
    quantiles = np.array(
        [np.quantile(by_generation[number], [0, 0.25, 0.5, 0.75, 1]) for number in numbers]
    )
    low, first, middle, third, high = factor * quantiles.T
    axes.fill_between(numbers, low, high, color=PALE, alpha=0.35, linewidth=0, label="all")
    axes.fill_between(numbers, first, third, color=PALE, linewidth=0, label="middle half")
    axes.plot(numbers, middle, color=ACCENT, label="median")
    axes.set_xlabel("generation", color=INK, fontsize=10)
    axes.set_ylabel("fitness" + (" in %" if factor == 100 else ""), color=INK, fontsize=10)
    add_legend(figure)
    return figure


def genome_bars(names: Sequence[str], genome: Sequence[float]) -> Any:
    """Plot the value of each gene: as bars with their names, or as dots if there are many."""
    if len(genome) > _MOST_GENES:
        figure, axes = _axes(3)
        axes.plot(range(len(genome)), genome, ".", color=ACCENT)
        axes.set_xlabel("gene", color=INK, fontsize=10)
        return figure
    labels = [names[index] if index < len(names) else str(index) for index in range(len(genome))]
    return _bars(labels, genome, "value")


def importance_bars(importance: Mapping[str, float]) -> Any:
    """Plot how closely the fitness follows each gene: rank correlations, from -1 to 1."""
    figure = _bars(list(importance), list(importance.values()), "rank correlation with the fitness")
    figure.axes[0].axvline(0, color=SOFT, linewidth=0.8)
    return figure


def _bars(labels: Sequence[str], values: Sequence[float], what: str) -> Any:
    figure, axes = _axes(0.9 + 0.3 * max(1, len(values)))
    axes.grid(visible=False)
    axes.grid(axis="x", color=LINE, linewidth=0.8)
    axes.barh(range(len(values)), values, color=ACCENT, height=0.7)
    axes.set_yticks(
        range(len(values)), [plain_text(short_label(label)) for label in labels], fontsize=10
    )
    axes.set_xlabel(what, color=INK, fontsize=10)
    axes.invert_yaxis()
    return figure


def short_label(label: str, most: int = 34) -> str:
    """Return a label whose middle is left out if it is long."""
    if len(label) <= most:
        return label
    return f"{label[: most // 2 - 1]}…{label[-(most // 2) :]}"


def plain_text(text: str) -> str:
    """Return a text that matplotlib shows as it is, on one line.

    matplotlib reads text between `$` as a formula, and SVG has no control characters.
    """
    return printable(text, len(text)).replace("$", r"\$")
