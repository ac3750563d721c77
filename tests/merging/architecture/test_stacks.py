"""Stacks of architectures whose blocks are of several kinds: written completely, or refused.

transformers is the judge: it must find every weight of what is written, and leave none over.
"""

import json

import pytest
import tiny
import torch
import transformers
from merges import digest, mix
from merging.architecture.small_configs import class_name, small_config
from safetensors.torch import load_file

from evomerge.errors import ConfigError, RecipeError
from evomerge.merging.resident import Resident
from evomerge.merging.writer import write_model
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.correspondence import check_fit
from evomerge.models.part import Parents
from evomerge.models.parts import part_notes
from evomerge.problem.resolve import START, check_recipes
from evomerge.recipe import Layer, Recipe, Source

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    """Make a model once for each architecture, seed and changes of the config."""

    made = {}

    def get(kind, seed=1, **changes):
        if (key := f"{kind} {seed} {changes}") in made:
            return made[key]
        config = small_config(kind)
        for name, value in changes.items():
            setattr(config, name, value)
        config, folder = type(config).from_dict(config.to_dict()), tmp_path_factory.mktemp(kind)
        with tiny.quiet():
            model = getattr(transformers, class_name(kind))(config)
            tiny.randomize(model, seed)
            model.save_pretrained(folder)
        return made.setdefault(key, Checkpoint.open(folder, "a"))

    return get


def stack(host, path):
    whole = Layer("passthrough", [Source("a")])
    layers = [Layer("passthrough", [Source("a", layer)]) for layer in path]
    return Recipe("a", {host.decoder_stack.prefix: layers}, whole, whole, dtype="float32")


def assert_complete(kind, folder):
    with tiny.quiet():
        _, told = kind.from_pretrained(folder, output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"] and not told["mismatched_keys"]


def written(host, path, out):
    """Write a stack, check that transformers loads all of it, and that the weights are right."""
    write_model(stack(host, path), {"a": host}, out)
    assert_complete(getattr(transformers, host.config["architectures"][0]), out)
    result = Checkpoint.open(out, "out")
    before, after = (load_file(item.folder / "model.safetensors") for item in (host, result))
    for position, layer in enumerate(path):
        for suffix in {*host.decoder_stack.blocks[layer], *result.decoder_stack.blocks[position]}:
            bias = suffix.endswith("SelfAttention.relative_attention_bias.weight")
            # All blocks use that of the first one.
            shared = bias and suffix not in host.decoder_stack.blocks[1]
            name = result.decoder_stack.name(0 if shared else position, suffix)
            own = host.decoder_stack.name(0 if shared else layer, suffix)
            assert torch.equal(after[name], before[own]), name
    return result


GEMMA4 = {"hidden_size_per_layer_input": 0}
FULL, SLIDING, LINEAR = "full_attention", "sliding_attention", "linear_attention"
KINDS, SPARSE = [SLIDING, SLIDING, FULL, SLIDING], {"decoder_sparse_step": 2, "mlp_only_layers": []}


@pytest.mark.parametrize(
    ("kind", "changes", "path", "expected"),
    [
        ("deepseek_v2", {}, (0, 2, 1, 1, 3), {"first_k_dense_replace": 1}),
        ("ernie4_5_moe", {}, (0, 0, 1, 3), {"moe_layer_start_index": 2}),
        ("afmoe", {}, (0, 0, 3, 1), {"num_dense_layers": 2, "layer_types": KINDS}),
        ("qwen3_moe", {"mlp_only_layers": [0]}, (0, 1, 0, 2, 3), {"mlp_only_layers": [0, 2]}),
        ("smollm3", {"no_rope_layers": [1, 0, 1, 1]}, (1, 0, 1), {"no_rope_layers": [0, 1, 0]}),
        ("mllama", {}, (3, 0, 1, 3, 2), {"cross_attention_layers": [0, 3]}),
        ("bamba", {}, (0, 1, 3, 2, 2), {"attn_layer_indices": [1, 2]}),
        ("nemotron_h", {}, (2, 0, 1, 1), {"layers_block_type": ["mlp", LINEAR, FULL, FULL]}),
        ("zamba2", {}, (0, 1, 2, 2, 3), {"hybrid_layer_ids": [1, 4]}),
        ("gpt_neo", {}, (1, 0, 2), {"attention_layers": ["local", "global", "global"]}),
        ("falcon_h1", {}, (0, 1, 1, 2, 3), {"num_hidden_layers": 5}),
        ("gemma4_text", GEMMA4, (3, 0, 1, 3), {"layer_types": [FULL, SLIDING, SLIDING, FULL]}),
        ("modernbert", {}, (0, 2, 1, 1), {"num_hidden_layers": 4}),
        ("t5", {}, (0, 1, 0, 2, 3), {"num_decoder_layers": 5, "num_layers": 4}),
        ("longt5", {}, (1, 0, 0), {"num_decoder_layers": 3}),
    ],
)  # fmt: skip
def test_settings_of_layers_follow_the_blocks(kind, changes, path, expected, parent, tmp_path):
    config = written(parent(kind, **changes), path, tmp_path / "out").text_config
    assert {key: config[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("kind", "changes", "path", "reason"),
    [
        ("deepseek_v2", {}, (0, 1, 0), r"\[1\]: block 1 of 'a' has False in 'first_k_dense_repl"),
        ("ernie4_5_moe", {}, (0, 1, 0), r"\[1\]: block 1 of 'a' .*'moe_layer_start_index'"),
        ("qwen3_moe", SPARSE, (3, 0, 2, 1), r"needs the tensor 'model.layers.0.mlp.down_proj"),
        ("modernbert", {}, (0, 1, 0), r"needs the tensor 'model.layers.2.attn_norm.weight'"),
        ("modernbert", {}, (1, 2), r"has no place .* 'model.layers.0.attn_norm.weight'"),
        ("rwkv", {}, (0, 1, 0), r"has no place for .* 'rwkv.blocks.2.pre_ln.bias'"),
        ("gemma3n_text", {}, (0, 1, 1, 2, 3), r"needs .*per_layer\S* \(.* not \[128, 32\]"),
        ("gemma4_text", GEMMA4, (3, 0), r"\[1\]: block 0 of 'a' has 'sliding_attention' in 'layer"),
        ("zamba2", {}, (0, 3, 2, 1), r"\[1\]: block 3 of 'a' .*'hybrid_layer_ids'"),
        ("zamba2", {}, (0, 1, 2), r"no place for .*layers.1.shared_transformer"),
        ("switch_transformers", {"decoder_sparse_step": 2}, (0, 2), r"needs the .*block.1"),
        ("recurrent_gemma", {}, (1, 0, 0), r"needs .*layers.0.temporal_block"),
        ("jamba", {}, (0, 2, 1, 3), r"needs .*layers.1.feed_forward.experts"),
    ],
)  # fmt: skip
def test_a_path_that_the_config_cannot_express_is_refused(
    kind, changes, path, reason, parent, tmp_path
):
    with pytest.raises(RecipeError, match=reason):
        written(parent(kind, **changes), path, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def with_predictions(folder, seed):
    """A model of DeepSeek-V3 as it is published: a layer for multi-token prediction comes last."""
    host = tiny.make(folder, "llama", seed=seed)

    def add(tensors):
        for name in [name for name in tensors if ".layers.2." in name]:
            tensors[name.replace(".2.", ".3.")] = tensors[name].clone()
        width = tensors["model.norm.weight"].shape[0]
        square = torch.ones(width, 2 * width)
        tensors |= {"model.layers.3.eh_proj.weight": square, "mtp.fc.weight": square.clone()}
        norms = ("norm", "input_layernorm", "enorm", "hnorm")
        for name in ("model.layers.3.enorm", *(f"mtp.layers.0.{norm}" for norm in norms)):
            tensors[f"{name}.weight"] = torch.ones(width)

    tiny.rewrite(host, add)
    tiny.edit_config(host, num_nextn_predict_layers=1)
    return Checkpoint.open(host, folder.name)


@pytest.mark.parametrize("path", [(0, 1, 2), (0, 1, 1, 2)])
def test_layers_for_multi_token_prediction_are_left_out(path, tmp_path):
    """A fine-tuned model that transformers has saved lacks them, and yet fits."""
    other = Checkpoint.open(tiny.make(tmp_path / "b", seed=2), "b")
    parents = {"a": with_predictions(tmp_path / "a", 1), "b": other}
    assert [len(item.stacks) for item in parents.values()] == [1, 1]
    check_fit(parents["a"], list(parents.values()))
    (note,) = part_notes(Parents(parents, "a", {name: name for name in parents}))
    assert "prediction of a are left out" in note
    layers = {"model.layers": [mix("ab", i) for i in path]}
    recipe = Recipe("a", layers, mix("ab"), mix("ab"), dtype="float32")
    write_model(recipe, parents, out := tmp_path / "out")
    config = json.loads((out / "config.json").read_text())
    assert (config["num_nextn_predict_layers"], config["num_hidden_layers"]) == (0, len(path))
    assert_complete(transformers.LlamaForCausalLM, out)


@pytest.mark.parametrize(
    ("kind", "words"), [("deepseek_v3", r"\[1\]: block 1 of 'a'"), ("modernbert", "needs the")]
)
def test_a_search_refuses_the_same_paths(kind, words, parent):
    host = parent(kind)
    recipe = stack(host, (0, 1, 0))
    with pytest.raises(RecipeError, match=words):
        Resident({"a": host}, "a", "float32").apply(recipe)
    with pytest.raises(ConfigError, match=rf"`space` holds recipes .* starts: .*{words}"):
        check_recipes({START: recipe}, {"a": host}, "a")


def test_the_relative_bias_of_a_stack_is_that_of_its_first_block(parent, tmp_path):
    """In T5, block 0 computes it for all blocks: a moved block still adds what it added before."""
    checkpoints, out = {"a": parent("t5"), "b": parent("t5", seed=2)}, tmp_path / "out"
    layers, outside = [mix("ab", i) for i in (2, 0)], Layer("passthrough", [Source("a")])
    stacks = {"encoder.block": layers, "decoder.block": layers}
    recipe = Recipe("a", stacks, outside, outside, dtype="float32")
    write_model(recipe, checkpoints, out)
    folders = (out, *(item.folder for item in checkpoints.values()))
    written, *parents = (load_file(folder / "model.safetensors") for folder in folders)
    for stack in stacks:
        suffix = "layer.0.SelfAttention.relative_attention_bias.weight"
        biases = [item[f"{stack}.0.{suffix}"] for item in parents]
        torch.testing.assert_close(written[f"{stack}.0.{suffix}"], sum(biases) / 2)
        assert f"{stack}.1.{suffix}" not in written
    merged = Resident(checkpoints, "a", "float32").apply(recipe)
    assert digest(tiny.load(out)) == digest(merged)
