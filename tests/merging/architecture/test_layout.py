"""Where tensors land, found on few blocks as on all; and the generation config of a candidate."""

import json
from dataclasses import replace

import pytest
import tiny
import torch
from merges import every, mix

from evomerge.errors import CheckpointError
from evomerge.merging.architecture.layout import build_layout, find_locations, first_blocks
from evomerge.merging.architecture.loading import Loader, generation_config
from evomerge.merging.resident import Resident
from evomerge.merging.tokenizers.plan import plan_tokenizer
from evomerge.merging.writer import write_model
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
def test_weights_that_would_be_random_or_contradict_the_config(name, shape, told, tmp_path):
    checkpoint = Checkpoint.open(tiny.make(tmp_path / "a", tokenizer=False), "a")
    shapes = {key: it for key, it in {**shapes_of(checkpoint), name: shape}.items() if it}
    with pytest.raises(CheckpointError, match=told) as caught:
        build_layout(checkpoint.config, shapes, {}, torch.float32)
    assert "\n" not in str(caught.value)


def test_an_architecture_that_transformers_lacks_is_refused(tmp_path):
    checkpoint = Checkpoint.open(tiny.make(tmp_path / "a", tokenizer=False), "a")
    config = {**checkpoint.config, "architectures": ["MadeUpForCausalLM"]}
    with pytest.raises(CheckpointError, match=r"no model class for .*MadeUp.* is not run"):
        build_layout(config, shapes_of(checkpoint), {}, torch.float32)


SWAPPED = [*tiny.WORDS]
SWAPPED[2], SWAPPED[9] = SWAPPED[9], SWAPPED[2]


def made(tmp_path, generation, config):
    """Return two parents, whose end tokens have other ids, and a recipe of them."""
    parents = {}
    for name, words, end in (("a", tiny.WORDS, 2), ("b", SWAPPED, 9)):
        folder = tiny.make(tmp_path / name, seed=end, tokenizer=False)
        tiny.save_tokenizer(folder, words)
        tiny.edit_config(folder, eos_token_id=end, **config)
        file = folder / "generation_config.json"
        file.unlink(missing_ok=True)
        if generation is not None:
            file.write_text(json.dumps({"eos_token_id": end, **generation}))
        parents[name] = Checkpoint.open(folder, name)
    return parents, every(parents["a"], lambda i: mix("ab", i), dtype="float32")


@pytest.mark.parametrize("tokenizer", ["base", "b"])
@pytest.mark.parametrize(
    ("generation", "config"),
    [({"top_k": 7}, {}), ({}, {"num_beams": 3}), (None, {}), (None, {"max_new_tokens": 3})],
    ids=["file", "file counts alone", "no file", "settings of an old model"],
)
def test_the_scored_model_generates_with_the_exported_settings(
    tmp_path, generation, config, tokenizer
):
    parents, recipe = made(tmp_path, generation, config)
    if tokenizer == "base":
        parents["b"] = Checkpoint.open(parents["a"].folder, "b")
    else:
        recipe = replace(recipe, tokenizer=tokenizer)
    plan = plan_tokenizer(recipe, parents)
    scored = Resident(parents, "a", recipe.dtype, tokenizer=plan).apply(recipe).generation_config
    write_model(recipe, parents, tmp_path / "out")
    exported = tiny.load(tmp_path / "out").generation_config
    assert scored.to_dict() == exported.to_dict()
    assert scored.eos_token_id == (9 if tokenizer == "b" else 2)
    assert scored.top_k == (generation or {}).get("top_k", exported.top_k)
    if generation is None:
        assert scored.max_new_tokens == config.get("max_new_tokens")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"max_new_tokens": -1}', "has a setting .*`max_new_tokens` must"),
        ("[1]", "refuses"),
        ("{", ""),
    ],
)
def test_a_setting_that_transformers_refuses_is_named(text, words):
    with pytest.raises(CheckpointError, match=rf"generation_config.json.*{words}") as caught:
        generation_config({}, text)
    assert "\n" not in str(caught.value)
