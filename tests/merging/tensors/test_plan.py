"""A plan covers every tensor, and says precisely what a recipe gets wrong."""

from dataclasses import replace

import pytest
import tiny
import torch

from evomerge.errors import RecipeError
from evomerge.merging.tensors.plan import Planner, SourceTensor
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe import Layer, Recipe, Source


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    root = tmp_path_factory.mktemp("plan")
    made = {name: tiny.make(root / name, seed=i) for i, name in enumerate("abc")}
    made["wide"] = tiny.make(root / "wide", vocab_size=52)
    return {name: Checkpoint.open(folder, name) for name, folder in made.items()}


def plan(recipe, checkpoints):
    return list(Planner(checkpoints, recipe.host).plan(recipe))


def layer(index, method="linear", **knobs):
    return Layer(method, [Source("a", index), Source("b", index)], None, knobs)


def recipe(layers=None, **changes):
    layers = [layer(i) for i in range(3)] if layers is None else layers
    stacks = layers if isinstance(layers, dict) else {"model.layers": layers}
    made = Recipe("a", stacks, layer(None), layer(None))
    return replace(made, **changes)


WRONG = {
    "'zz'.*not opened": lambda: recipe([Layer("linear", [Source("zz", 0)])]),
    "'zz' was not opened": lambda: recipe(host="zz"),
    "Did you mean 'model.layers'": lambda: recipe(layers={"model.layer": (layer(0),)}),
    r"layers\.model\.layers\[1\]: layer of 'a' is 3; allowed are 0 to 2": (
        lambda: recipe([layer(0), layer(3)])
    ),
    "is None; allowed are 0 to 2": lambda: recipe([layer(None)]),
    "has no sources": lambda: recipe([Layer("linear", [])]),
    "A knob has no value for tensor 'model.layers.0.": (
        lambda: recipe([Layer("linear", [Source("a", 0, {"weight": (("mlp", 1),)})])])
    ),
    r"\[48, 16\] in 'a', \[52, 16\] in 'wide'.*tokenizer: union": (
        lambda: recipe(embeddings=Layer("linear", [Source("a"), Source("wide")]))
    ),
}


@pytest.mark.parametrize("message", WRONG)
def test_what_is_wrong_is_said_precisely(message, checkpoints):
    with pytest.raises(RecipeError, match=message) as caught:
        plan(WRONG[message](), checkpoints)
    assert "\n" not in str(caught.value)


def test_integer_tensors_are_copied_from_the_base_or_the_first_source(tmp_path):
    checkpoints = {}
    for number, name in enumerate("ab"):
        steps = {f"model.layers.{i}.steps": torch.tensor([number]) for i in range(3)}
        folder = tiny.make(tmp_path / name, seed=number)
        tiny.rewrite(folder, lambda tensors, steps=steps: tensors.update(steps))
        checkpoints[name] = Checkpoint.open(folder, name)
    based = Layer("ties", [Source("a", 1)], Source("b", 1))
    for block, origin in ((layer(1), "a"), (based, "b")):
        found = {item.name: item for item in plan(recipe([block]), checkpoints)}
        item = found["model.layers.0.steps"]
        assert item.method is None and item.dtype == "I64"
        assert item.sources == (SourceTensor(origin, "model.layers.1.steps"),)
