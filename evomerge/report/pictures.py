"""The figures of a report, made with matplotlib."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

from evomerge.report.standings import Standings
from evomerge.run.history import History
from evomerge.scores import SPLITS

_INK, _GREY, _ACCENT, _WARM = "#1d2733", "#9aa7b4", "#1f6feb", "#d9822b"
_SPLIT_COLOURS = {"search": "#b8c4d0", "validation": "#7aa7e8", "test": _ACCENT}


def _axes(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_INK, labelsize=9)
    axes.grid(axis="y", color="#e6ebf0", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def best_so_far(history: History) -> Any:
    """Plot the fitness of every candidate on the search documents, and the best so far."""
    figure, axes = _axes(9, 3.4)
    finished = [item for item in history.candidates if item.fitness is not None]
    searched = [item for item in finished if item.label is None]
    estimates = [item for item in searched if item.is_estimate]
    scored = [item for item in searched if not item.is_estimate]
    axes.plot(
        [item.number for item in scored],
        [item.fitness for item in scored],
        "o",
        color=_GREY,
        markersize=3,
        label="candidate",
    )
    if estimates:
        axes.plot(
            [item.number for item in estimates],
            [item.fitness for item in estimates],
            "o",
            color=_GREY,
            markersize=3,
            fillstyle="none",
            label="candidate, estimated",
        )
    baselines = [item for item in finished if item.label is not None]
    axes.plot(
        [item.number for item in baselines],
        [item.fitness for item in baselines],
        "D",
        color=_WARM,
        markersize=5,
        label="parents, uniform merge",
    )
    best, line = -math.inf, []
    for item in finished:
        best = best if item.is_estimate else max(best, item.fitness or 0.0)
        line.append(best)
    axes.step(
        [item.number for item in finished], line, where="post", color=_ACCENT, label="best so far"
    )
    failed = [item.number for item in history.candidates if item.status == "failed"]
    if failed:
        floor = min((item.fitness or 0.0 for item in finished), default=0.0)
        axes.plot(failed, [floor] * len(failed), "x", color="#c0392b", label="failed")
    if history.winner is not None and history.winner.fitness is not None:
        axes.plot(
            [history.winner.number],
            [history.winner.fitness],
            "*",
            color=_ACCENT,
            markersize=14,
            label="winner",
        )
    axes.set_xlabel("candidate", color=_INK)
    axes.set_ylabel("fitness on search documents", color=_INK)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def standings_chart(table: Standings) -> Any:
    """Plot the last column of the standings (the fitness, or the only metric) with intervals.

    Every model has one bar for each split that it was scored on.
    """
    figure, axes = _axes(9, 3.2)
    column = table.columns[-1]
    labels = [plain_text(table.names[row.label]) for row in table.rows]
    width = 0.8 / len(SPLITS)
    for offset, split in enumerate(SPLITS):
        for index, row in enumerate(table.rows):
            item = row.estimates.get((split, column))
            if item is None or not math.isfinite(item.value):
                continue
            x = index + (offset - 1) * width
            axes.bar(x, item.value, width * 0.92, color=_SPLIT_COLOURS[split])
            if math.isfinite(item.low) and math.isfinite(item.high):
                axes.plot([x, x], [item.low, item.high], color=_INK, linewidth=1)
    for split in SPLITS:
        axes.bar(0, 0, color=_SPLIT_COLOURS[split], label=split)
    axes.set_xticks(range(len(labels)), labels)
    axes.set_ylabel(plain_text(column), color=_INK)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def genome_bars(names: Sequence[str], genome: Sequence[float]) -> Any:
    """Plot the value of each gene: as bars with their names, or as dots if there are over 80."""
    if len(genome) > 80:
        figure, axes = _axes(9, 3)
        axes.plot(range(len(genome)), genome, ".", color=_ACCENT)
        axes.set_xlabel("gene", color=_INK)
        return figure
    figure, axes = _axes(9, 0.6 + 0.22 * len(genome))
    labels = [
        plain_text(names[index]) if index < len(names) else str(index)
        for index in range(len(genome))
    ]
    axes.grid(visible=False)
    axes.grid(axis="x", color="#e6ebf0", linewidth=0.8)
    axes.barh(range(len(genome)), genome, color=_ACCENT, height=0.7)
    axes.set_yticks(range(len(genome)), labels, fontsize=8)
    axes.invert_yaxis()
    return figure


def svg(figure: Any) -> str:
    """Return a figure as the text of an SVG file. Equal figures give equal texts."""
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "evomerge"}):
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    return buffer.getvalue()


def plain_text(text: str) -> str:
    """Return a text that matplotlib shows unchanged; it reads text between `$` as a formula."""
    return text.replace("$", r"\$")
