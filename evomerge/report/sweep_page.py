"""A sweep as one HTML page: its table, score over cost, and paired tests."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from evomerge.report.figures import (
    ACCENT,
    BAD,
    GREY,
    PALE,
    SOFT,
    WARM,
    add_legend,
    inline_svg,
    label_text,
    make_axes,
    new_axes,
)
from evomerge.report.html import render, write_html
from evomerge.report.sweeps import Ran, SweepTable

_COLOURS = (ACCENT, WARM, BAD, GREY, PALE, SOFT)


def write_sweep(table: SweepTable, target: Path) -> None:
    """Write the page of a sweep to a file; InputError: it cannot be written."""
    charts = [
        inline_svg(f"cost{number}", cost_chart(keys, groups, factor), "Best so far over cost.")
        for number, (keys, groups, factor) in enumerate(_by_objective(table))
    ]
    write_html(render("sweep", table=table, charts=charts), target, "--html")


def _by_objective(table: SweepTable) -> list[tuple[str, dict[str, list[Ran]], float]]:
    """Return the objectives, the groups of searches for them, and the factor of their scores."""
    found: dict[str, dict[str, list[Ran]]] = {}
    for name, group in table.groups.items():
        for item in group:
            if item.view is not None and not item.view.ranking.has_front:
                keys = ", ".join(objective.key for objective in item.view.ranking.objectives)
                found.setdefault(keys, {}).setdefault(name, []).append(item)
    return [
        (keys, groups, min(table.factor(name) for name in groups)) for keys, groups in found.items()
    ]


def cost_chart(keys: str, groups: dict[str, list[Ran]], factor: float) -> Any:
    """Plot the best fitness so far on search documents over CPU seconds: a line for each search.

    A point is the winner on test documents, where all work is paid for.
    """
    unit = " in %" if factor == 100 else ""
    figure, axes = new_axes(3.8, "CPU seconds", f"{label_text(keys, 50)}{unit}")
    make_axes(axes)
    for place, (name, group) in enumerate(groups.items()):
        colour = _COLOURS[place % len(_COLOURS)]
        for number, item in enumerate(group):
            label = label_text(name) if number == 0 else None
            across, up = best_over_cost(item)
            axes.step(across, [factor * v for v in up], where="post", color=colour, label=label)
            if item.estimate is not None and math.isfinite(item.estimate.value):
                axes.plot(item.cpu_seconds, factor * item.estimate.value, "o", color=colour)
    add_legend(figure)
    return figure


def best_over_cost(item: Ran) -> tuple[list[float], list[float]]:
    """Return CPU seconds, and the best fitness on search documents by then."""
    across: list[float] = []
    up: list[float] = []
    if item.view is None:
        return across, up
    until, _ = item.view.run.timings.cpu_seconds()
    best = -math.inf
    for candidate in item.view.history.told:
        if candidate.fitness is None or candidate.is_estimate or candidate.number not in until:
            continue
        best = max(best, candidate.fitness)
        across.append(until[candidate.number])
        up.append(best)
    return across, up
