"""Where tensors land: found on few blocks as on all, and told where they cannot be found."""

from __future__ import annotations

import pytest
import tiny
import torch

from evomerge.errors import CheckpointError
from evomerge.merging.architecture.layout import build_layout, first_blocks
from evomerge.merging.architecture.loading import Loader
from evomerge.merging.architecture.probe import find_locations
from evomerge.models.checkpoint import Checkpoint

DEPTH = 5
COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "num_decoder_layers")
VARIANTS = {name: (name, {}) for name in tiny.CONFIGS} | {
    "dense blocks first": ("qwen3_moe", {"mlp_only_layers": [0, 1]}),
    "experts in every second block": ("qwen3_moe", {"decoder_sparse_step": 2}),
}


def deep(folder, architecture, **changes):
    """Make a checkpoint of `DEPTH` blocks."""
    counts = dict.fromkeys(COUNTS, DEPTH)
    kinds = [("sliding_attention", "full_attention")[i == 2] for i in range(DEPTH)]
    lists = {"layer_types": kinds if architecture == "gemma3" else None, "no_rope_layers": None}
    made = tiny.make(folder, architecture, tokenizer=False, **counts, **lists, **changes)
    return Checkpoint.open(made, architecture)


def shapes_of(checkpoint):
    return {name: info.shape for name, info in checkpoint.tensors.items() if info.floating}


@pytest.mark.parametrize("variant", VARIANTS)
def test_first_blocks_tell_the_layout_of_all(variant, tmp_path):
    architecture, changes = VARIANTS[variant]
    checkpoint = deep(tmp_path / "a", architecture, **changes)
    assert len(checkpoint.decoder_stack) == DEPTH
    shapes = shapes_of(checkpoint)
    few = first_blocks(checkpoint.config, shapes)
    assert few is not None
    assert max(few.counts.values()) < DEPTH
    assert len(few.shapes) < len(shapes)
    whole = find_locations(Loader.of(checkpoint.config, {}), shapes)
    assert few.extend(find_locations(Loader.of(few.config, {}), few.shapes)) == whole


@pytest.mark.parametrize("index", ["\N{SUPERSCRIPT TWO}", "9" * 5000, "x"])
def test_a_tensor_beside_the_blocks_is_in_the_shorter_model_too(tmp_path, index):
    checkpoint = deep(tmp_path / "a", "llama")
    beside = f"{checkpoint.decoder_stack.prefix}.{index}.weight"
    few = first_blocks(checkpoint.config, {**shapes_of(checkpoint), beside: (1,)})
    assert few is not None and beside in few.shapes


@pytest.mark.parametrize(
    ("name", "shape", "told"),
    [
        ("lm_head.weight", None, r"lm_head\.weight"),
        ("model.layers.2.mlp.up_proj.weight", None, r"layers\.2\.mlp\.up_proj\.weight"),
        ("model.layers.1.mlp.up_proj.weight", (25, 16), "cannot build LlamaForCausalLM"),
    ],
)
def test_weights_that_would_be_random_or_contradict_the_config_are_refused(
    name, shape, told, tmp_path
):
    checkpoint = Checkpoint.open(tiny.make(tmp_path / "a", tokenizer=False), "a")
    shapes = {**shapes_of(checkpoint), name: shape}
    shapes = {key: item for key, item in shapes.items() if item is not None}
    with pytest.raises(CheckpointError, match=told) as caught:
        build_layout(checkpoint.config, shapes, {}, torch.float32)
    assert "\n" not in str(caught.value)


def test_an_architecture_that_transformers_lacks_is_refused(tmp_path):
    checkpoint = Checkpoint.open(tiny.make(tmp_path / "a", tokenizer=False), "a")
    config = {**checkpoint.config, "architectures": ["MadeUpForCausalLM"]}
    with pytest.raises(CheckpointError, match=r"no model class for .*MadeUp.* is not run"):
        build_layout(config, shapes_of(checkpoint), {}, torch.float32)
