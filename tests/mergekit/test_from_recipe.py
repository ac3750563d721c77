"""Recipes written as mergekit files read back as the same merge, or an error gives the reason."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spaces import parameters

from evomerge.errors import RecipeError
from evomerge.mergekit import express, from_mergekit, mergekit_parents
from evomerge.merging.tensors.plan import Planner, TensorPlan
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.stacks import tensor_filters
from evomerge.parsing.values import replaced
from evomerge.recipe import Layer, Recipe, Source

STACK = "model.layers"


def plan(recipe: Recipe, parents: Mapping[str, Checkpoint]) -> list[TensorPlan]:
    return list(Planner(parents, recipe.host).plan(recipe))


def read_back(text: str, parents: Mapping[str, Checkpoint]) -> Recipe:
    """Read a written file and replace the folders of parents in it by their references."""
    names = {str(parent.folder): name for name, parent in parents.items()}
    found = {path: replace(parents[names[path]], reference=path) for path in mergekit_parents(text)}
    data = from_mergekit(text, found).to_dict()
    return Recipe.from_dict(replaced(data, lambda value: names.get(value, value)))


number = st.floats(-2, 2, allow_subnormal=False).map(lambda value: round(value, 3))
knob = st.one_of(
    number,
    st.lists(
        st.tuples(st.sampled_from(["self_attn", "mlp", "norm", "q_proj", "layers.1"]), number),
        min_size=1,
        max_size=3,
        unique_by=lambda pair: pair[0],
    ).flatmap(lambda pairs: number.map(lambda rest: (*pairs, ("*", rest)))),
)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    method = draw(st.sampled_from(["linear", "task_arithmetic", "passthrough", "slerp"]))
    names = {"passthrough": "a", "slerp": "ab"}.get(method, draw(st.sampled_from(["ab", "abc"])))

    def layer(block: bool) -> Layer:
        position = st.integers(0, 2) if block else st.none()
        per = {"passthrough": "scale", "slerp": None}.get(method, "weight")
        merged = [name for name in names if not (method == "task_arithmetic" and name == "a")]
        shared: dict[str, Any] = {}
        if method == "slerp":
            shared = {"t": draw(st.floats(0, 1).map(lambda value: round(value, 2)))}
        if method == "task_arithmetic" and draw(st.booleans()):
            shared = {"lambda": draw(knob)}
        return Layer(
            method,
            [Source(n, draw(position), {per: draw(knob)} if per else {}) for n in merged],
            Source("a", draw(position)) if method == "task_arithmetic" else None,
            shared,
        )

    distinct = [layer(True) for _ in range(draw(st.integers(1, 3)))]
    blocks = draw(st.lists(st.sampled_from(distinct), min_size=1, max_size=4))
    dtype = draw(st.sampled_from(["float32", "bfloat16"]))
    return Recipe("a", {STACK: blocks}, layer(False), layer(False), dtype=dtype)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(recipes())
def test_a_recipe_written_as_a_mergekit_file_reads_back_the_same(llamas, recipe):
    try:
        text = express(recipe, llamas)
    except RecipeError as error:
        assert "No filter" in str(error)
        return
    assert plan(read_back(text, llamas), llamas) == plan(recipe, llamas)


def test_one_weight_for_each_tensor_becomes_filters(llamas: Any) -> None:
    filters = tensor_filters(llamas["a"].stacks[STACK])
    frame, each = {"dtype": "float32"}, {"groups": "each", "components": "each"}
    space = parameters(["task_arithmetic"], ("b", "c"), "a", 3, filters, frame, **each)
    recipe = space.decode(tuple(round(0.01 + i / 70, 4) for i in range(len(space.genes))))
    text = express(recipe, llamas)
    assert plan(read_back(text, llamas), llamas) == plan(recipe, llamas)
    weights = {tensor.knobs[0]["weight"] for tensor in plan(recipe, llamas)}
    assert len(weights) == len(space.genes) / 2 == 3 * len(filters) + 2


def path_recipe(scales: list[float]) -> Recipe:
    blocks = [Layer("passthrough", [Source("a", i)], scale=s) for i, s in enumerate(scales)]
    ends = Layer("passthrough", [Source("a")])
    return Recipe("a", {STACK: blocks}, ends, ends, dtype="float32")


def test_the_scales_of_a_path_become_filters(llamas: Any) -> None:
    recipe = path_recipe([1, 0.8, 1.5])
    text = express(recipe, llamas)
    data = yaml.safe_load(text)
    assert len(data["slices"]) == 3
    ours, theirs = plan(recipe, llamas), plan(read_back(text, llamas), llamas)
    for one, other in zip(ours, theirs, strict=True):
        assert one.knobs[0]["scale"] * one.factor == pytest.approx(other.knobs[0]["scale"])


def test_recipes_that_mergekit_cannot_express_give_the_reason(llamas: Any) -> None:
    plain = path_recipe([1, 1, 1])
    mixed = replace(plain, layers={STACK: [Layer("linear", [Source("a", 0)])]})
    other_head = replace(plain, head=Layer("passthrough", [Source("b")]))
    source, base = Source("b"), Source("a")
    block = Layer("tsv", [Source("b", 0), Source("a", 0)], Source("a", 0))
    ends = Layer("tsv", [source, base], base)
    joined = Recipe("a", {STACK: [block]}, ends, ends)
    with pytest.raises(RecipeError, match="several block stacks"):
        express(replace(plain, layers={}), llamas)
    for recipe, message in (
        (mixed, "only one method"),
        (other_head, "`head` has other parents"),
        (joined, "no method 'tsv'"),
    ):
        with pytest.raises(RecipeError, match=message):
            express(recipe, llamas)
