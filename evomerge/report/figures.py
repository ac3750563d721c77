"""The style of all pictures: colours, axes, heat maps, and matplotlib figures as SVG.

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
from typing import Any

from evomerge.errors import printable, without_controls

MOST_LABELS = 60  # of the rows of a heat map

WIDTH, NARROW = 5.6, 4.2
"""Widths in inches, of which a browser shows 96 pixels each."""

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


def new_figure(height: float, width: float = WIDTH) -> Any:
    """Return a matplotlib figure of a size in inches, which notebooks show."""
    return _picture()(figsize=(width, height), layout="constrained")


def new_axes(height: float, across: str = "", up: str = "") -> tuple[Any, Any]:
    """Return a figure of a height in inches, and its axes with these labels."""
    figure = new_figure(height)
    axes = make_axes(figure.add_subplot())
    axes.set_xlabel(across, color=INK, fontsize=10)
    axes.set_ylabel(up, color=INK, fontsize=10)
    return figure, axes


def make_axes(axes: Any, grid: str = "y") -> Any:
    """Return axes in the style of a report, with grid lines across `x` or `y`."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(colors=INK, labelsize=10, color=LINE)
    axes.grid(visible=False)
    axes.grid(axis=grid, color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    return axes


def add_legend(figure: Any) -> None:
    """Put a legend above the axes of a figure, in as many columns as its names have room for."""
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
        ncols=max(1, min(3, 66 // max(map(len, handles), default=1))),  # 66 letters fit
        handletextpad=0.4,
        columnspacing=1.0,
    )


def panels_below(height: float, heights: Sequence[float]) -> tuple[Any, list[Any]]:
    """Return a narrow figure and its panels, one below the other, with these relative heights."""
    figure = new_figure(height, NARROW)
    panels = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes in panels:
        axes.tick_params(labelsize=7.5, colors=INK, length=2)
    return figure, list(panels)


def heat_map(figure: Any, axes: Any, title: str, grid: Mapping[str, Sequence[float]]) -> None:
    """Draw a grid (label of a row -> values; nan is a gap) with colours of its own."""
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
    step = math.ceil(len(grid) / MOST_LABELS)
    labels = [label_text(label, 26) for label in list(grid)[::step]]
    axes.set_yticks(range(0, len(grid), step), labels)
    axes.set_facecolor(LINE)
    bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02)
    bar.ax.tick_params(labelsize=7, colors=INK)
    bar.locator = few_ticks(4)
    if low == high:
        bar.set_ticks([low], labels=[f"{low:.3g}"])


def few_ticks(most: int, *, whole: bool = False) -> Any:
    """Return a matplotlib locator of at most `most` ticks; `whole`: at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=most, integer=whole)


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

    All ids get the name as a prefix: they must be unique in a page, and matplotlib uses the same
    ones in all figures. The caption is for people who do not see it.
    """
    whole = svg_text(figure)
    svg = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", whole[whole.index("<svg") :])
    for variable, (colour, _) in PALETTE.items():
        svg = svg.replace(colour, f"var(--{variable})")
    label = html.escape(without_controls(caption))
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
