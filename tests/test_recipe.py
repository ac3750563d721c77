"""Recipes are canonical: equal recipes have equal digests. A written recipe reads back the same."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.errors import RecipeError
from evomerge.recipe import Layer, Recipe, Source, knob_at

names = st.sampled_from(["zoo:a", "org/b@main", "./c+./d"])
numbers = st.floats(-1e6, 1e6, allow_nan=False)
knobs = st.dictionaries(
    st.sampled_from(["weight", "density", "t"]),
    numbers | st.lists(st.tuples(st.sampled_from(["mlp", "*"]), numbers), min_size=1).map(tuple),
)


def sources(layer):
    return st.builds(Source, parent=names, layer=layer, knobs=knobs)


def layers(layer):
    return st.builds(
        Layer,
        method=st.sampled_from(["linear", "ties"]),
        sources=st.lists(sources(layer), min_size=1, max_size=3).map(tuple),
        base=st.none() | sources(layer),
        knobs=knobs,
        scale=numbers,
    )


recipes = st.builds(
    Recipe,
    host=names,
    layers=st.dictionaries(
        st.sampled_from(["model.layers", "encoder.block"]),
        st.lists(layers(st.integers(0, 9)), max_size=3).map(tuple),
        max_size=2,
    ),
    embeddings=layers(st.none()),
    head=layers(st.none()),
    dtype=st.sampled_from(["bfloat16", "float32"]),
    tokenizer=st.sampled_from(["base", "union", "zoo:a"]),
    seed=st.integers(0, 5),
    options=st.dictionaries(st.sampled_from(["chat_template"]), st.text(max_size=3)),
)


@settings(deadline=None)
@given(recipes)
def test_yaml_and_dict_read_back_as_the_same_recipe(recipe):
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    again = Recipe.from_dict(recipe.to_dict())
    assert again == recipe
    assert again.digest == recipe.digest


def plain(**knobs):
    layer = Layer("linear", (Source("zoo:a", None, knobs),))
    return Recipe("zoo:a", {"model.layers": ()}, layer, layer)


def test_numbers_are_canonical():
    assert plain(weight=1).digest == plain(weight=1.0).digest == plain(weight=True).digest
    assert plain(weight=0.0).digest == plain(weight=-0.0).digest
    assert plain(weight=0.5).digest != plain(weight=0.25).digest
    assert plain(a=1, b=2).digest == plain(b=2, a=1).digest


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_are_finite(value):
    with pytest.raises(RecipeError, match="finite"):
        plain(weight=value)


def test_the_error_for_a_misspelt_key_suggests_the_right_one():
    data = plain(weight=1).to_dict()
    data["embedings"] = data.pop("embeddings")
    with pytest.raises(RecipeError, match=r"'embedings'.*Did you mean 'embeddings'"):
        Recipe.from_dict(data)


def test_filters_apply_in_order():
    knob = (("mlp", 0.5), ("*", 1.0))
    assert knob_at(knob, "model.layers.0.mlp.up_proj.weight") == 0.5
    assert knob_at(knob, "model.layers.0.self_attn.q_proj.weight") == 1.0
    with pytest.raises(RecipeError, match="default"):
        knob_at((("mlp", 0.5),), "model.norm.weight")


def test_parents_are_all_models_of_a_recipe_with_the_host_first():
    outer = Layer("linear", (Source("b"), Source("a")))
    block = Layer("ties", (Source("a", 0), Source("c", 1)), Source("base", 0))
    recipe = Recipe("host", {"model.layers": (block,)}, outer, outer)
    assert recipe.parents[0] == "host"
    assert sorted(recipe.parents) == ["a", "b", "base", "c", "host"]
