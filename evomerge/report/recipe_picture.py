"""Pictures of what is at which depth: knobs and paths, readable at a width of 400 pixels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, pairwise
from typing import Any, TypeAlias

from evomerge.errors import RecipeError
from evomerge.recipe import Layer, Recipe
from evomerge.report.pictures import GREY, INK, LINE, label_text, new_figure, plain_text
from evomerge.report.words import renamed
from evomerge.space.paths.path import describe, legend_of, path_of

_COLOURS = ("#1f6feb", "#d9822b", "#2a9d6f", "#a855c7", "#c0392b", "#5f6b78", "#b8a21f", "#1797a6")
_LONGEST = 52
_MOST_LABELS = 60  # of the rows of a heat map
_ALL = "all"
"""Label of the row of a knob of the whole merge."""

_DEPTH = "block of the merged model"

_Grid: TypeAlias = dict[str, list[float]]
"""Label of a row -> value at each depth; nan where the knob is not used."""


def parent_letters(recipe: Recipe) -> dict[str, str]:
    """Return letter -> parent for all parents of a recipe, with the letters of `describe`."""
    sources = (source.parent for layer in _blocks(recipe) for source in layer.sources)
    return legend_of([recipe.host, *sources, *recipe.parents])


def path_text(recipe: Recipe, names: Mapping[str, str]) -> str:
    """Return the path of a recipe through the layers as one line; names: parent -> its name."""
    return renamed(describe(recipe), names, "= ")


def is_path(recipe: Recipe) -> bool:
    """Return whether every block of a recipe's only stack is an unchanged block of one parent."""
    try:
        return len(recipe.layers) == 1 and bool(path_of(_blocks(recipe)))
    except RecipeError:
        return False


def knobs_of_every_layer(recipe: Recipe) -> str:
    """Return `weight 0.5 of A, weight 0.5 of B` if every layer has the same knobs, else ""."""
    letters = {parent: letter for letter, parent in parent_letters(recipe).items()}
    words = []
    for knob, grid in _knob_grids(recipe, letters).items():
        for label, values in grid.items():
            if any(value != values[0] for value in values):  # nan differs from itself, too
                return ""
            words.append(f"{knob} {values[0]:g}" + ("" if label == _ALL else f" of {label}"))
    return ", ".join(words)


def recipe_picture(recipe: Recipe, names: Mapping[str, str]) -> Any:
    """Draw a recipe: its path or its knobs, with these names of parents; None if it has neither."""
    return (_path_picture if is_path(recipe) else _knob_picture)(recipe, names)


def _knob_picture(recipe: Recipe, names: Mapping[str, str]) -> Any:
    """Draw one heat map for each knob: columns are the depth, rows are parents; None: no knobs.

    The first column is the embeddings (E), the one behind the blocks the head (H); the blocks of
    several stacks follow each other. Behind the head are merged modalities by their first letter. A
    knob of the whole merge has the row `all`.
    """
    knobs = _knob_grids(recipe, {name: names[name] for name in parent_letters(recipe).values()})
    if not knobs:
        return None
    stacks = _stacks(recipe)
    tall = [min(len(grid), _MOST_LABELS) for grid in knobs.values()]
    height = 0.55 * len(tall) + 0.2 * sum(tall) + 0.3
    figure, panels = _panels_below(height, [count + 1.2 for count in tall])
    for axes, (knob, grid) in zip(panels, knobs.items(), strict=True):
        _heat_map(figure, axes, plain_text(knob), grid)
        axes.set_xticks(*_depth_ticks(list(map(len, stacks.values())), recipe.modalities))
    # Below the labels of rows, too, which may leave little room beside them.
    outside = ("embeddings", "head", *recipe.modalities)
    letters = ", ".join(f"{name[0].upper()}: {name}" for name in outside)
    several = len(stacks) > 1
    depth = f"block of {', then of '.join(stacks)}" if several else _DEPTH
    space = "\n" if recipe.modalities or several else " "
    figure.supxlabel(f"{depth}{space}({letters})", x=0.02, ha="left", **_TEXT)
    return figure


def _path_picture(recipe: Recipe, names: Mapping[str, str]) -> Any:
    """Draw a path, which has no merged block: which block of which parent is at each depth.

    A second panel has the scale of the hidden state where it enters each block, if it is not 1.
    """
    path = path_of(_blocks(recipe))
    scaled = any(hop.scale != 1.0 for hop in path)
    legend = (f"{key}: {names[parent]}" for key, parent in parent_letters(recipe).items())
    notes = [line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…" for line in legend]
    height = 2.3 + 0.9 * scaled + 0.16 * len(notes)
    figure, panels = _panels_below(height, [2.4, 1.0] if scaled else [1.0])
    for number, (letter, parent) in enumerate(parent_letters(recipe).items()):
        colour = _COLOURS[number % len(_COLOURS)]
        points = [(depth, hop.layer) for depth, hop in enumerate(path) if hop.parent == parent]
        if points:
            panels[0].plot(*zip(*points, strict=True), "s", color=colour, ms=4, label=letter)
    for depth, (hop, after) in enumerate(pairwise(path)):
        style = "-" if after.follows(hop) else ":"
        panels[0].plot([depth, depth + 1], [hop.layer, after.layer], style, color=GREY, lw=0.8)
    panels[0].set_ylabel("block of the parent", fontsize=8, color=INK)
    panels[0].legend(**_ABOVE)
    if scaled:
        scales = [hop.scale for hop in path]
        panels[1].axhline(1.0, color=GREY, lw=0.8)
        panels[1].vlines(range(len(path)), 1.0, scales, color=INK, lw=2)
        panels[1].set_ylabel("scale", fontsize=8, color=INK)
    for axes in panels:
        axes.set_xlim(-0.7, len(path) - 0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(_few_ticks(8, integer=True))
    panels[0].yaxis.set_major_locator(_few_ticks(6, integer=True))
    panels[-1].set_xlabel("\n".join([_DEPTH, *map(plain_text, notes)]), loc="left", **_TEXT)
    return figure


_ABOVE = {
    "loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "frameon": False, "fontsize": 8, "ncols": 6,
    "handletextpad": 0.1, "columnspacing": 1.0,
}  # fmt: skip
_TEXT = {"fontsize": 8, "color": INK, "linespacing": 1.4}


def _panels_below(height: float, heights: Sequence[float]) -> tuple[Any, list[Any]]:
    """Return a narrow figure and its panels, one below the other, with these relative heights."""
    figure = new_figure(height, 4.2)
    panels = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes in panels:
        axes.tick_params(labelsize=7.5, colors=INK, length=2)
    return figure, list(panels)


def _heat_map(figure: Any, axes: Any, title: str, grid: _Grid) -> None:
    """Draw a grid with colours of its own; nan is a gap."""
    values = [value for row in grid.values() for value in row if not math.isnan(value)]
    low, high = min(values), max(values)
    margin = 0.5 * (low == high)  # one value is not drawn as if it were an extreme
    limits = {"vmin": low - margin, "vmax": high + margin}
    style = {"aspect": "auto", "cmap": "viridis", "interpolation": "nearest"}
    image = axes.imshow(list(grid.values()), **style, **limits)
    axes.set_title(title, loc="left", fontsize=8.5, color=INK, pad=3)
    step = math.ceil(len(grid) / _MOST_LABELS)
    labels = [label_text(label, 26) for label in list(grid)[::step]]
    axes.set_yticks(range(0, len(grid), step), labels)
    axes.set_facecolor(LINE)
    bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02)
    bar.ax.tick_params(labelsize=7, colors=INK)
    bar.locator = _few_ticks(4)
    if low == high:
        bar.set_ticks([low], labels=[f"{low:.3g}"])


def _few_ticks(most: int, *, integer: bool = False) -> Any:
    """Return a matplotlib locator of at most `most` ticks; `integer`: at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=most, integer=integer)


def _stacks(recipe: Recipe) -> dict[str, tuple[Layer, ...]]:
    """Return the blocks of each stack that is named, those of a decoder last."""
    return dict(sorted(recipe.layers.items(), key=lambda item: "decoder" in item[0]))


def _blocks(recipe: Recipe) -> tuple[Layer, ...]:
    """Return the blocks of all stacks that are named."""
    return tuple(chain.from_iterable(_stacks(recipe).values()))


def _knob_grids(recipe: Recipe, labels: Mapping[str, str]) -> dict[str, _Grid]:
    """Return knob -> its grid: the rows of the sources, then that of the whole merge.

    `labels`: parent -> what rows call it, in the order of the rows. A knob with other values for
    some tensors has a row for each kind, in which a value for all tensors stands, too.
    """
    depth = (recipe.embeddings, *_blocks(recipe), recipe.head, *recipe.modalities.values())
    rows_of: dict[str, dict[str, _Grid]] = {}
    for column, layer in enumerate(depth):
        owners = [(labels[source.parent], source.knobs) for source in layer.sources]
        for owner, knobs in [*owners, (_ALL, layer.knobs)]:
            for knob, value in knobs.items():
                rows = rows_of.setdefault(knob, {}).setdefault(owner, {})
                for kind, number in [("", value)] if isinstance(value, float) else value:
                    name = "rest" if kind == "*" else kind.strip(".")
                    rows.setdefault(name, [math.nan] * len(depth))[column] = number
    grids: dict[str, _Grid] = {}
    for knob, of_owner in rows_of.items():
        grid = grids[knob] = {}
        for owner in (label for label in [*labels.values(), _ALL] if label in of_owner):
            usual = of_owner[owner].pop("", [math.nan] * len(depth))
            for kind, row in sorted(of_owner[owner].items()):
                pairs = zip(row, usual, strict=True)
                grid[f"{owner} {kind}"] = [u if math.isnan(value) else value for value, u in pairs]
            if not of_owner[owner]:
                grid[owner] = usual
    return grids


def _depth_ticks(depths: Sequence[int], modalities: Iterable[str]) -> tuple[list[int], list[str]]:
    """Return numbers and labels of the columns `E`, some of the blocks, `H`, the modalities.

    `depths`: number of blocks of each stack.
    """
    blocks = sum(depths)
    step = next(size for size in (1, 2, 4, 5, 8, 10, 20, 50, 100, blocks + 1) if blocks / size <= 9)
    ticks = [
        (1 + sum(depths[:number]) + block, str(block))
        for number, depth in enumerate(depths)
        for block in range(0, depth, step)
        if block + step / 2 < depth or block == 0
    ]
    more = [name[0].upper() for name in modalities]
    last = range(blocks + 1, blocks + 2 + len(more))
    return [0, *(x for x, _ in ticks), *last], ["E", *(name for _, name in ticks), "H", *more]
