"""The picture of test scores over the number of candidates, a panel for each space."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from choosing.records import Record
from choosing.table import BASELINE, scores

INK = "#7d8590"
"""A grey that can be read on white and on black, for all texts and lines of the frame."""

COLOURS = {
    "gp": "#e3742f",
    "cma": "#2f81f7",
    "diagonal-cma": "#1b9aaa",
    "cma-margin": "#bf5fd0",
    "two-points-de": "#2da44e",
    "discrete-lengler": "#d1495b",
    BASELINE: INK,
}
"""The optimizers that have a line of their own; all others are thin grey lines."""


def draw(worlds: Mapping[str, Sequence[Record]], file: Path) -> None:
    """Write an SVG whose background is transparent.

    Args:
        worlds: name of a space -> its records.
        file: path of the SVG; its folder is created.
    """
    mpl.rcParams["svg.hashsalt"] = "evomerge"
    rows = math.ceil(len(worlds) / 2)
    figure = Figure(figsize=(9, 0.4 + 3.2 * rows), layout="constrained")
    panels = figure.subplots(rows, 2, squeeze=False).flat
    for number, (name, records) in enumerate(worlds.items()):
        _panel(panels[number], name, records)
        if number % 2 == 0:
            panels[number].set_ylabel("test score of the winner, %", color=INK)
    for axes in panels[len(worlds) :]:
        axes.remove()
    lines = {line.get_label(): line for axes in figure.axes for line in axes.get_lines()}
    names = [name for name in COLOURS if name in lines]
    place = {"loc": "outside upper center", "ncol": len(COLOURS), "fontsize": 8}
    figure.legend([lines[n] for n in names], names, frameon=False, labelcolor=INK, **place)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, transparent=True, bbox_inches="tight", metadata={"Date": None})


def _panel(axes: Axes, name: str, records: Sequence[Record]) -> None:
    """Draw the lines of a space."""
    names = sorted({record.optimizer for record in records}, key=lambda one: one in COLOURS)
    counts = sorted({count for record in records for count in record.winners})
    for optimizer in names:
        means = [statistics.fmean(scores(records, optimizer, n).values()) for n in counts]
        colour = COLOURS.get(optimizer)
        form = "--" if optimizer == BASELINE else "-"
        look = {"marker": "o", "linewidth": 1.8} if colour else {"alpha": 0.3, "linewidth": 0.8}
        axes.plot(counts, means, form, color=colour or INK, markersize=3, label=optimizer, **look)
    axes.set_title(f"{name} genes", color=INK, fontsize=10)
    axes.set_xlabel("candidates", color=INK, fontsize=9)
    axes.set_ylim(bottom=0)
    axes.tick_params(colors=INK, labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.grid(axis="y", color=INK, alpha=0.25, linewidth=0.6)
