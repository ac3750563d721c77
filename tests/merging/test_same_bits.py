"""In memory as on disk, bit for bit: every architecture by every kind of recipe.

The written model is loaded by transformers' Auto classes, and runs as the one in memory does.
"""

from dataclasses import replace
from itertools import product

import pytest
import tiny
import torch
from merges import digest, every, mix
from spaces import parse_path

from evomerge.merging.resident import Resident
from evomerge.merging.writer import write_model
from evomerge.models.stacks import modality_of
from evomerge.recipe import Layer, Recipe, Source
from evomerge.space.paths import layers_of

pytestmark = pytest.mark.thorough

PATHS = {
    "longer": "A2 B0 A1 B1",
    "shorter": "A0 B2",
    "scaled": "A0 B0x0.8 A1-2x1.3 B1x0.7 B1x1.2 A2x0.9",
}
BLOCKS = [name for name in tiny.CONFIGS if name not in ("llava", "t5", "bert")]  # one stack
CASES = [
    *product(tiny.CONFIGS, ("average", "alone")),
    *product(BLOCKS, ("longer", "shorter")),
    *((name, "scaled") for name in BLOCKS if name != "qwen2_vl"),
    *product(("llama", "gemma2"), ["scaled average"]),
]


def recipe_of(kind, host):
    """Return a recipe of the parents "a" (the host) and "b"."""
    if kind in PATHS:
        whole = Layer("passthrough", [Source("a")])
        layers = layers_of(parse_path(PATHS[kind], {"A": "a", "B": "b"}))
        return Recipe("a", {host.decoder_stack.prefix: layers}, whole, whole, dtype="float32")
    weights = {"a": 1.0} if kind == "alone" else {"a": 0.25, "b": 0.75}
    scales = (1.0, 0.9, 1.2) if kind == "scaled average" else (1.0, 1.0, 1.0)

    def layer(index):
        return replace(mix(weights, index), scale=1.0 if index is None else scales[index])

    return every(host, layer, dtype="bfloat16" if kind == "average" else "float32")


def generated(model, **how):
    ids = torch.tensor([[1, 5, 9, 7]])
    found: torch.Tensor = model.generate(ids, max_new_tokens=12, do_sample=False, **how)
    return found


KINDS_OF_CODE = ("llama", "gpt2", "gemma2", "mixtral", "qwen2_vl", "llava", "t5", "bert", "mamba")
"""Architectures whose tensors, stacks or forward passes differ in kind."""


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [
        pytest.param(*case, marks=[] if case[0] in KINDS_OF_CODE else pytest.mark.long)
        for case in CASES
    ],
)
def test_memory_disk_and_transformers_hold_one_model(architecture, kind, pair, tmp_path):
    checkpoints = pair(architecture)
    recipe = recipe_of(kind, checkpoints["a"])
    resident = Resident(checkpoints, "a", recipe.dtype)
    if kind in PATHS:
        resident.apply(recipe_of("alone", checkpoints["a"]))
    merged = resident.apply(recipe)
    write_model(recipe, checkpoints, tmp_path / "out", shard_size="9000")
    loaded = tiny.load(tmp_path / "out")
    assert type(loaded) is type(merged) and loaded.dtype == getattr(torch, recipe.dtype)
    assert digest(loaded) == digest(resident.module)
    result = tiny.logits(merged)
    assert torch.equal(tiny.logits(loaded), result) and torch.isfinite(result).all()
    if kind in PATHS:
        ours = generated(merged)
        for how in ({}, {"use_cache": False}):
            assert torch.equal(generated(loaded, **how), ours)
        return
    one, two = (tiny.load(item.folder) for item in checkpoints.values())
    if kind == "alone":
        assert digest(merged) == digest(one)
    if kind == "average":
        theirs, written = (dict(model.named_parameters()) for model in (two, merged))
        for name, weight in one.named_parameters():
            wanted = weight if modality_of(name) else weight * 0.25 + theirs[name] * 0.75
            torch.testing.assert_close(written[name].float(), wanted, rtol=2**-8, atol=1e-7)
