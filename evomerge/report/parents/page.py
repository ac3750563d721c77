"""A comparison of parents as a page: its tables, and a picture by depth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evomerge.report.figures import (
    ACCENT,
    BAD,
    GREY,
    INK,
    PALE,
    SOFT,
    WARM,
    WIDTH,
    add_legend,
    few_ticks,
    inline_svg,
    label_text,
    make_axes,
)
from evomerge.report.html import render, write_html
from evomerge.report.parents.comparison import ParentComparison

_COLOURS = (ACCENT, WARM, BAD, GREY, PALE, SOFT)


def write_comparison(found: ParentComparison, target: Path) -> None:
    """Write a comparison to a file; InputError: it cannot be written."""
    write_html(comparison_page(found), target, "--html")


def comparison_page(found: ParentComparison) -> str:
    """Return the page of a comparison."""
    return render("comparison", found=found, svg=comparison_svg(found))


def comparison_svg(found: ParentComparison) -> str:
    """Return the picture by depth as an element of a page; empty if there are no layers."""
    if found.weights.layers < 2:
        return ""
    return inline_svg("depth", depth_chart(found), "What the parents changed, by layer.")


def depth_chart(found: ParentComparison) -> Any:
    """Plot by layer what each parent changed, and below it the cosine of each two task vectors.

    Without a base, only the distance between each two parents.
    """
    from evomerge.report.picture import Picture

    layers = found.weights.by_layer
    above = [
        (found.names[parent], [100 * sums.change[place] for sums in layers])
        for place, parent in enumerate(found.parents)
    ]
    below = [(found.pair_name(pair), [s.cosines[pair] for s in layers]) for pair in found.pairs]
    panels = [("change in %", above), ("cosine", below)]
    if found.base is None:
        apart = [
            (found.pair_name(pair), [100 * sums.distances[pair] for sums in layers])
            for pair in found.pairs
        ]
        panels = [("distance in %", apart)]
    panels = [panel for panel in panels if panel[1]]
    figure = Picture(figsize=(WIDTH, 0.8 + 2.0 * len(panels)), layout="constrained")
    drawn = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for number, (axes, (label, lines)) in enumerate(zip(drawn, panels, strict=True)):
        make_axes(axes).set_ylabel(label, color=INK, fontsize=10)
        for place, (name, values) in enumerate(lines):
            colour = _COLOURS[place % len(_COLOURS)]
            style = "-" if number == 0 else "--"
            axes.plot(range(len(layers)), values, style, color=colour, label=label_text(name))
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    drawn[-1].set_xlabel("layer", color=INK, fontsize=10)
    drawn[-1].xaxis.set_major_locator(few_ticks(10, whole=True))
    add_legend(figure)
    return figure
