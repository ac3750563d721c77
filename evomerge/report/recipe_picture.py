"""Pictures of what is at which depth: knobs and paths, readable at a width of 400 pixels."""

import math
from collections.abc import Mapping
from itertools import chain
from typing import Any, TypeAlias

from evomerge.errors import RecipeError
from evomerge.recipe import Layer, Recipe
from evomerge.report.pictures import LINE, TEXT, add_legend, label_text, new_figure, plain_text
from evomerge.space.paths import describe, legend_of, path_of
from evomerge.words import renamed

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

    The first column is the embeddings (E), the one after the blocks the head (H); the blocks of
    several stacks follow each other. After the head are merged modalities by their first letter. A
    knob of the whole merge has the row `all`.
    """
    knobs = _knob_grids(recipe, {name: names[name] for name in parent_letters(recipe).values()})
    if not knobs:
        return None
    outside = ("embeddings", "head", *recipe.modalities)
    blocks = [str(block) for stack in _stacks(recipe).values() for block in range(len(stack))]
    depth = ["E", *blocks, *(name[0].upper() for name in outside[1:])]
    step = math.ceil(len(depth) / 10)
    columns = [x for x, name in enumerate(depth) if name.isalpha()]
    for x, name in enumerate(depth):  # a number needs the room of a step
        if not name.isalpha() and not int(name) % step:
            columns += [x] * all(abs(x - other) >= step for other in columns)
    heights = [len(grid) + 1.2 for grid in knobs.values()]
    figure, panels = new_figure(0.4 * len(knobs) + 0.3 * sum(heights), heights)
    for axes, (knob, grid) in zip(panels, knobs.items(), strict=True):
        image = axes.imshow(list(grid.values()), aspect="auto", interpolation="nearest")
        axes.set_title(plain_text(knob), loc="left", **TEXT)
        axes.set_yticks(range(len(grid)), [label_text(label, 26) for label in grid])
        axes.set_xticks(columns, [depth[x] for x in columns])
        axes.set_facecolor(LINE)  # where a knob is not used
        figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02, aspect=4)
    letters = ", ".join(f"{name[0].upper()}: {name}" for name in outside)
    panels[-1].set_xlabel(f"{_DEPTH}\n({letters})", **TEXT)
    return figure


def _path_picture(recipe: Recipe, names: Mapping[str, str]) -> Any:
    """Draw a path, which has no merged block: which block of which parent is at each depth."""
    path, letters = path_of(_blocks(recipe)), parent_letters(recipe)
    figure, (axes,) = new_figure(2.8 + 0.2 * len(letters))
    for letter, parent in letters.items():
        points = [(depth, hop.layer) for depth, hop in enumerate(path) if hop.parent == parent]
        label = label_text(f"{letter}: {names[parent]}", 60)
        axes.plot(*zip(*points, strict=True) if points else ((), ()), "s", ms=4, label=label)
    axes.locator_params(integer=True)
    axes.set_xlabel(_DEPTH, **TEXT)
    axes.set_ylabel("block of the parent", **TEXT)
    add_legend(figure)
    return figure


def _stacks(recipe: Recipe) -> dict[str, tuple[Layer, ...]]:
    """Return the blocks of each stack that is named, a decoder last."""
    return dict(sorted(recipe.layers.items(), key=lambda stack: "decoder" in stack[0]))


def _blocks(recipe: Recipe) -> tuple[Layer, ...]:
    """Return the blocks of all stacks that are named."""
    return tuple(chain.from_iterable(_stacks(recipe).values()))


def _knob_grids(recipe: Recipe, labels: Mapping[str, str]) -> dict[str, _Grid]:
    """Return knob -> its grid: the rows of the sources, then the row of the whole merge.

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
