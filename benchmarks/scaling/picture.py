"""The picture of simulated efficiency over the number of workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

INK = "#7d8590"
"""A grey that can be read on white and on black, for all texts and lines of the frame."""

COLOURS = ("#2f81f7", "#d9822b", "#2da44e", "#bf5fd0", "#d1495b", "#8a8f98")


def draw(lines: Mapping[str, Sequence[tuple[int, float]]], target: float, file: Path) -> None:
    """Write an SVG whose background is transparent.

    Args:
        lines: name of a line -> number of workers and efficiency of each point.
        target: efficiency at which a line is drawn, in [0, 1].
        file: path of the SVG; its folder is created.
    """
    mpl.rcParams["svg.hashsalt"] = "evomerge"
    figure = Figure(figsize=(8, 4))
    axes = figure.add_subplot()
    for colour, (name, points) in zip(COLOURS, lines.items(), strict=False):
        style = "--" if "3 s" in name.split() or name.startswith("3 s") else "-"
        xs, ys = zip(*points, strict=True)
        axes.plot(xs, [100 * y for y in ys], f"o{style}", color=colour, markersize=4, label=name)
    axes.axhline(100 * target, color=INK, linewidth=0.8, linestyle=":")
    axes.set_xscale("log", base=2)
    ticks = sorted({x for points in lines.values() for x, _ in points})
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_ylim(0, 103)
    axes.set_xlabel("workers", color=INK)
    axes.set_ylabel("time in which workers are busy, %", color=INK)
    axes.tick_params(colors=INK, labelsize=9, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.grid(axis="y", color=INK, alpha=0.25, linewidth=0.6)
    above = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncol": 2}
    axes.legend(frameon=False, fontsize=8, labelcolor=INK, **above)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, transparent=True, bbox_inches="tight", metadata={"Date": None})
