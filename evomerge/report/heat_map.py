"""Heat maps, one below the other, for matplotlib figures of a width of 400 pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from evomerge.report.colours import INK, LINE

WIDTH = 4.2
"""Width in inches: 403 pixels at the 96 pixels an inch that browsers use."""


def panels_below(height: float, heights: Sequence[float]) -> tuple[Any, list[Any]]:
    """Return a figure and its panels, one below the other.

    Args:
        height: of the figure, in inches.
        heights: of the panels, in relation to each other.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    panels = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes in panels:
        axes.tick_params(labelsize=7.5, colors=INK, length=2)
    return figure, list(panels)


def heat_map(figure: Any, axes: Any, title: str, grid: Mapping[str, Sequence[float]]) -> None:
    """Draw a heat map with its own scale of colours; nan is drawn as a gap.

    Args:
        figure: the figure.
        axes: the panel.
        title: what the values are.
        grid: label of a row -> its values; at least one value is no nan.
    """
    values = [value for row in grid.values() for value in row if not math.isnan(value)]
    low, high = min(values), max(values)
    image = axes.imshow(
        list(grid.values()),
        aspect="auto",
        cmap="viridis",
        interpolation="nearest",
        vmin=low - 0.5 * (low == high),  # one value is not drawn as if it were an extreme
        vmax=high + 0.5 * (low == high),
    )
    axes.set_title(title, loc="left", fontsize=8.5, color=INK, pad=3)
    axes.set_yticks(range(len(grid)), list(grid))
    axes.set_facecolor(LINE)
    bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02)
    bar.ax.tick_params(labelsize=7, colors=INK)
    bar.locator = few_ticks(4)
    if low == high:
        bar.set_ticks([low], labels=[f"{low:.3g}"])


def few_ticks(most: int, *, whole: bool = False) -> Any:
    """Return a matplotlib locator of at most so many ticks, at whole numbers if that is asked."""
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=most, integer=whole)
