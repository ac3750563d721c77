"""The pictures of a recipe show its knobs at every depth, or the blocks of its path."""

import math

import pytest

from evomerge.recipe import Layer, Recipe, Source
from evomerge.report.recipe_picture import (
    is_path,
    parent_letters,
    recipe_picture,
)
from evomerge.space.paths import describe

NAMES = {"base": "org/base", "one": "org/one", "two": "a-name-$of$-" + "x" * 80}


LONG = r"a-name-\$of\$-…xxxxxxxxxxxxx"
"""What a picture makes of the long name."""


def merged(count=3, weight=lambda depth: 0.1 * depth, knobs=None):
    def layer(depth, block):
        sources = (
            Source("one", block, {"weight": weight(depth), "density": 0.5}),
            Source("two", block, {"weight": 1.0}),
        )
        return Layer("ties", sources, Source("base", block), knobs or {})

    blocks = tuple(layer(block + 1, block) for block in range(count))
    return Recipe("base", {"model.layers": blocks}, layer(0, None), layer(count + 1, None))


def routed(hops):
    blocks = tuple(
        Layer("passthrough", (Source(parent, layer),), scale=scale) for parent, layer, scale in hops
    )
    whole = Layer("passthrough", (Source("one"),))
    return Recipe("one", {"model.layers": blocks}, whole, whole)


def grids(figure):
    """Title -> label of a row -> shown values, of every heat map."""
    found = {}
    for axes in figure.axes:
        if axes.images and axes.get_title(loc="left"):
            labels = [item.get_text() for item in axes.get_yticklabels()]
            values = axes.images[0].get_array().filled(math.nan).tolist()
            found[axes.get_title(loc="left")] = dict(zip(labels, values, strict=True))
    return found


def test_knobs_are_shown_at_every_depth():
    found = grids(recipe_picture(merged(knobs={"lambda": 2.0}), NAMES))
    assert list(found) == ["density", "weight", "lambda"]
    assert list(found["weight"]) == ["org/one", LONG]
    assert found["weight"]["org/one"] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert found["weight"][LONG] == [1.0] * 5
    assert found["density"] == {"org/one": [0.5] * 5} and found["lambda"] == {"all": [2.0] * 5}
    plain = Layer("linear", (Source("one"), Source("two")))
    assert recipe_picture(Recipe("base", {}, plain, plain), NAMES) is None


def test_a_path_shows_which_block_comes_from_where():
    recipe = routed([("one", 0, 1.0), ("one", 1, 1.0), ("two", 5, 0.9), ("one", 2, 1.0)])
    assert is_path(recipe) and not is_path(merged())
    (blocks,) = recipe_picture(recipe, NAMES).axes
    points = {line.get_label()[0]: line.get_xydata().tolist() for line in blocks.lines}
    assert points["A"] == [[0, 0], [1, 1], [3, 2]] and points["B"] == [[2, 5]]
    recipe = routed([("two", 0, 1.0), ("one", 1, 1.0)])
    assert parent_letters(recipe) == {"A": "one", "B": "two"}
    assert describe(recipe).startswith("B0 A1 (A = one, B = two")
