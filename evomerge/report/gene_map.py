"""The genes of a candidate, as a matplotlib figure; those of a path by depth and parent."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from evomerge.report.figures import INK, few_ticks, heat_map, label_text, panels_below
from evomerge.report.pictures import genome_bars

_OF_LAYER = re.compile(r"(?P<what>in|scale)\.(?P<row>.+)\[(?P<place>\d+)\](?P<copy>#\d+)?")
"""A gene of one layer of one parent: `in.zoo:maths[3]`, `scale.zoo:maths[3]#2`."""

_OF_PLACE = re.compile(r"(?P<what>scale\.)?(?P<row>block|slice)(?P<place>\d+)(?P<part>\.\w+)?")
"""A gene of one place in the path: `block3`, `scale.block3`, `slice1.first`."""


def genes_picture(names: Sequence[str], genome: Sequence[float], kind: str) -> Any | None:
    """Draw a genome in this kind of space: a path by depth, else by name; None if it is empty."""
    is_path = kind == "dataflow" and len(genome) == len(names)
    drawn = gene_map(names, genome) if is_path else None
    if drawn is None and len(genome):
        return genome_bars(names, genome)
    return drawn


def gene_map(names: Sequence[str], genome: Sequence[float]) -> Any | None:
    """Draw one heat map for each kind of genes: columns are the depth, rows are the parents.

    The scale of a layer that the path leaves out has no effect, so there is a gap in its place.
    None if genes belong to no layer or place, such as those of a scale network.
    """
    panels = _panels(names, genome)
    if panels is None:
        return None
    rows = [len(grid) for grid in panels.values()]
    figure, drawn = panels_below(
        0.55 * len(rows) + 0.2 * sum(rows) + 0.4, [count + 1.2 for count in rows]
    )
    for axes, (title, grid) in zip(drawn, panels.items(), strict=True):
        places = range(1 + max(place for row in grid.values() for place in row))
        labelled = {
            label_text(label): [row.get(place, math.nan) for place in places]
            for label, row in grid.items()
        }
        heat_map(figure, axes, title, labelled)
        axes.xaxis.set_major_locator(few_ticks(8, whole=True))
    below = "layer of the parent" if "in" in panels else "place in the path"
    drawn[-1].set_xlabel(below, loc="left", fontsize=8, color=INK)
    return figure


def _panels(
    names: Sequence[str], genome: Sequence[float]
) -> dict[str, dict[str, dict[int, float]]] | None:
    """Return kind -> row -> place -> value; None if a gene is of no layer or place."""
    panels: dict[str, dict[str, dict[int, float]]] = {}
    for name, value in zip(names, genome, strict=True):
        if name == "slices":
            continue
        layer, place = _OF_LAYER.fullmatch(name), _OF_PLACE.fullmatch(name)
        if layer is not None:
            what, row = layer["what"], layer["row"] + (layer["copy"] or "")
            number = int(layer["place"])
        elif place is not None:
            what = (place["what"] or place["part"] or place["row"]).strip(".")
            row, number = place["row"], int(place["place"])
        else:
            return None
        panels.setdefault(what, {}).setdefault(row, {})[number] = value
    for row, values in panels.get("scale", {}).items():
        included = panels.get("in", {}).get(row, {})
        for column in [column for column in values if included.get(column, 1.0) <= 0]:
            del values[column]
    drawn = {
        what: {row: values for row, values in rows.items() if values}
        for what, rows in panels.items()
    }
    return {what: rows for what, rows in drawn.items() if rows} or None
