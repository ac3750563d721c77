"""The pictures of a recipe show its knobs at every depth, or the blocks of its path."""

import math
from dataclasses import replace

import pytest

from evomerge.recipe import Layer, Recipe, Source
from evomerge.report.pictures import svg_text
from evomerge.report.recipe_picture import (
    is_path,
    knobs_of_every_layer,
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


def label(figure):
    return next(it for axes in figure.axes if (it := axes.get_xlabel()))


def ticks(figure):
    return [item.get_text() for item in figure.axes[0].get_xticklabels()]


def test_knobs_are_shown_at_every_depth():
    found = grids(recipe_picture(merged(knobs={"lambda": 2.0}), NAMES))
    assert list(found) == ["density", "weight", "lambda"]
    assert list(found["weight"]) == ["org/one", LONG]
    assert found["weight"]["org/one"] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert found["weight"][LONG] == [1.0] * 5
    assert found["density"] == {"org/one": [0.5] * 5} and found["lambda"] == {"all": [2.0] * 5}
    plain = Layer("linear", (Source("one"), Source("two")))
    assert recipe_picture(Recipe("base", {}, plain, plain), NAMES) is None


def test_a_merged_tower_is_behind_the_head_and_an_encoder_before_its_decoder():
    tower = Layer("linear", [Source("one", None, {"weight": 0.7})])
    recipe = replace(merged(weight=lambda depth: 0.5), vision=tower, projector=tower)
    figure = recipe_picture(recipe, NAMES)
    assert grids(figure)["weight"]["org/one"] == [0.5] * 5 + [0.7] * 2
    assert math.isnan(grids(figure)["weight"][LONG][-1])
    assert ticks(figure) == [*"E012HVP"]
    letters = "(E: embeddings, H: head, V: vision, P: projector)"
    assert label(figure).endswith(letters)
    assert knobs_of_every_layer(recipe) == "", "the tower has other knobs"
    encoder, decoder = merged(2).layers["model.layers"], merged(3).layers["model.layers"]
    stacks = {"model.encoder.layers": encoder, "model.decoder.layers": decoder}
    figure = recipe_picture(replace(merged(3), layers=stacks), NAMES)
    weights = [0.0, 0.1, 0.2, 0.1, 0.2, 0.3, 0.4]
    assert grids(figure)["weight"]["org/one"] == pytest.approx(weights)
    assert ticks(figure) == ["E", "0", "1", "0", "1", "2", "H"]


def test_a_knob_of_some_tensors_has_rows_of_its_own():
    def weight(depth):
        return [["self_attn.", 0.5], ["*", 0.25]] if 0 < depth < 4 else 0.75

    found = grids(recipe_picture(merged(weight=weight), NAMES))["weight"]
    assert found["org/one self_attn"] == [0.75, 0.5, 0.5, 0.5, 0.75]
    assert found["org/one rest"] == [0.75, 0.25, 0.25, 0.25, 0.75]
    assert list(found)[:2] == ["org/one rest", "org/one self_attn"] and len(found) == 3


def test_a_path_shows_which_block_comes_from_where():
    recipe = routed([("one", 0, 1.0), ("one", 1, 1.0), ("two", 5, 0.9), ("one", 2, 1.0)])
    assert is_path(recipe) and not is_path(merged())
    (blocks,) = recipe_picture(recipe, NAMES).axes
    points = {line.get_label()[0]: line.get_xydata().tolist() for line in blocks.lines}
    assert points["A"] == [[0, 0], [1, 1], [3, 2]] and points["B"] == [[2, 5]]
    recipe = routed([("two", 0, 1.0), ("one", 1, 1.0)])
    assert parent_letters(recipe) == {"A": "one", "B": "two"}
    assert describe(recipe).startswith("B0 A1 (A = one, B = two")


def test_knobs_that_are_the_same_in_all_layers_are_words():
    same = merged(weight=lambda depth: 0.25, knobs={"lambda": 2.0})
    words = "density 0.5 of B, weight 0.25 of B, weight 1 of C, lambda 2"
    assert knobs_of_every_layer(same) == words
    kinds = merged(weight=lambda depth: ((".mlp.", 0.1), ("*", 0.3)))
    assert "weight 0.1 of B mlp, weight 0.3 of B rest" in knobs_of_every_layer(kinds)
    without = replace(same, head=replace(same.head, sources=()))
    for recipe in (merged(), routed([("one", 0, 1.0)]), without):
        assert not knobs_of_every_layer(recipe)


def test_pictures_are_narrow_and_equal_in_every_run():
    for recipe in (merged(80), routed([("two", i, 1.1) for i in range(80)])):
        figure = recipe_picture(recipe, NAMES)
        assert svg_text(figure) == svg_text(recipe_picture(recipe, NAMES))
        assert figure.get_size_inches()[0] * 96 <= 538
