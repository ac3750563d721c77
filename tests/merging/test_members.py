"""Members: built from their lineage, kept within a bound, the same bits wherever they are built."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from model_digest import digest
from safetensors.torch import load_file

from evomerge import zoo
from evomerge.errors import RecipeError
from evomerge.merging import backend
from evomerge.merging.members import Members
from evomerge.merging.resident import Resident
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe import Layer, Recipe, Source
from evomerge.strategy.members import Lineage
from evomerge.strategy.niches import CrossoverSpace

PARENTS = {
    f"zoo:{name}": Checkpoint.open(zoo.path(name), f"zoo:{name}") for name in ("language", "maths")
}
HOST = PARENTS["zoo:language"]
MATES = {3: (0, 1), 4: (2, 3), 5: (4, 1), 6: (5, 3)}
"""Crossovers by number; 0 and 1 are the parents, 2 is the uniform merge."""


def recipes(dtype: str = "bfloat16") -> dict[int, Recipe]:
    space = CrossoverSpace(
        parents=list(PARENTS),
        host=HOST.reference,
        stacks={HOST.decoder_stack.prefix: len(HOST.decoder_stack)},
        dtype=dtype,
    )
    lineage = Lineage(space)
    for number, label in enumerate(space.baselines()):
        lineage.add(number, label, {})
    for number, mates in MATES.items():
        lineage.add(number, None, {"mates": mates, "split": number - 1, "t": 0.1 * number})
    return {number: lineage.recipe(number) for number in MATES}


def resident(members: Members, dtype: str = "bfloat16") -> Resident:
    return backend.resident(PARENTS, recipes(dtype)[3], "cpu", members=members)


def built(members: Members, number: int) -> str:
    """Return the digest of the weights of a candidate in memory."""
    model = resident(members)
    model.apply(recipes()[number])
    return digest(model.module)


def test_members_are_the_same_bits_in_any_order_and_with_any_room(tmp_path):
    first = Members(PARENTS, tmp_path / "all")
    model = resident(first)
    digests = {}
    for number, recipe in recipes().items():
        model.apply(recipe)
        digests[number] = digest(model.module)
    assert len(set(digests.values())) == len(digests)
    for number in (6, 3, 5):
        assert built(Members(PARENTS, tmp_path / "none", room=0), number) == digests[number]
        temporary = Members(PARENTS)
        assert built(temporary, number) == digests[number]
        temporary.close()
        assert not temporary.folder.exists()


def test_a_recipe_file_has_all_that_it_takes(tmp_path):
    text = recipes()[6].to_yaml()
    read = Recipe.from_yaml(text)
    assert read == recipes()[6] and read.parents == ("zoo:language", "zoo:maths")
    assert sorted(read.lineage) == ["member:2", "member:3", "member:4", "member:5"]
    backend.write(read, PARENTS, tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    module = resident(Members(PARENTS, tmp_path / "m")).apply(recipes()[6])
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter, weights[name])


def test_the_least_recent_member_leaves_and_what_is_in_use_stays(tmp_path):
    size = HOST.nbytes
    members = Members(PARENTS, tmp_path, room=2 * size)
    opened = members.open(recipes()[6])  # of 5 and 3
    assert len(list(tmp_path.iterdir())) >= 2
    reader = Members(PARENTS, tmp_path, room=0)
    in_use = {item.folder for item in opened.values()}
    reader.open(recipes()[4])  # of 2 and 3: it removes what it can
    assert all(folder.is_dir() for folder in in_use)
    members.close()
    os.utime(next(iter(in_use)), (0, 0))
    reader.open(recipes()[5])
    reader.close()
    assert not all(folder.is_dir() for folder in in_use)
    assert not list(tmp_path.glob(".*"))


def vector(folder: Path, names: list[str]) -> np.ndarray:
    weights = load_file(folder / "model.safetensors")
    return np.concatenate([weights[name].double().numpy().ravel() for name in names])


def test_global_slerp_goes_by_the_angle_between_the_whole_models(tmp_path):
    recipe = recipes("float32")[3]
    backend.write(recipe, PARENTS, tmp_path / "model")
    places = [
        "embeddings",
        *(f"{HOST.decoder_stack.prefix}.{i}." for i in range(len(HOST.decoder_stack))),
        "head",
    ]
    names = sorted(load_file(tmp_path / "model" / "model.safetensors"))

    def place(name: str) -> int:
        inside = [i for i, prefix in enumerate(places) if name.startswith(prefix)]
        return inside[0] if inside else 0 if "embed" in name else len(places) - 1

    one, two = (vector(zoo.path(item), names) for item in ("language", "maths"))
    angle = np.arccos(one @ two / np.linalg.norm(one) / np.linalg.norm(two))
    sizes = [load_file(tmp_path / "model" / "model.safetensors")[name].numel() for name in names]
    ts = [0.1 * 3 if place(name) < 2 else 1 - 0.1 * 3 for name in names]
    t = np.repeat(ts, sizes)
    expected = (np.sin((1 - t) * angle) * one + np.sin(t * angle) * two) / np.sin(angle)
    found = vector(tmp_path / "model", names)
    assert np.abs(found - expected).max() < 1e-6
    assert len(set(ts)) == 2 and np.abs(one - two).max() > 0.1


def test_global_slerp_of_one_parent_with_itself_is_that_parent(tmp_path):
    def layer(block: int | None) -> Layer:
        source = Source("zoo:maths", block)
        return Layer("global_slerp", (source, source), knobs={"t": 0.3})

    blocks = tuple(map(layer, range(len(HOST.decoder_stack))))
    recipe = Recipe(
        "zoo:maths", {HOST.decoder_stack.prefix: blocks}, layer(None), layer(None), "float32"
    )
    backend.write(recipe, PARENTS, tmp_path / "model")
    names = sorted(load_file(tmp_path / "model" / "model.safetensors"))
    assert np.array_equal(vector(tmp_path / "model", names), vector(zoo.path("maths"), names))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"member:3": {', '"m3": {', "names 'member:3', but `members` has no recipe"),
        (
            '"parent": "member:5"',
            '"parent": "member:9"',
            "names 'member:9', but `members` has no recipe",
        ),
        ('"parent": "member:2"', '"parent": "member:5"', "before this one; add it"),
    ],
)
def test_a_recipe_file_with_wrong_members_is_refused(old, new, message):
    text = json.dumps(recipes()[6].to_dict())
    assert old in text and Recipe.from_yaml(text) == recipes()[6]
    with pytest.raises(RecipeError, match=message):
        Recipe.from_yaml(text.replace(old, new))


def test_a_long_lineage_is_pickled_and_read():
    space = CrossoverSpace(parents=["a", "b"], host="a", stacks={"model.layers": 1})
    lineage = Lineage(space)
    for number, label in enumerate(space.baselines()):
        lineage.add(number, label, {})
    for number in range(3, 1500):
        origin = {"mates": [number - 1, number - 2], "split": 1, "t": 0.5}
        lineage.add(number, None, origin)
    recipe = lineage.recipe(1499)
    again = pickle.loads(pickle.dumps(recipe))
    assert again == recipe and len(again.lineage) == 1497
    assert Recipe.from_dict(recipe.to_dict()) == recipe
