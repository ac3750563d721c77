"""LoRA parents against PEFT's own merge, and its own run of the model with the adapter."""

import json
import warnings

import peft
import pytest
import tiny
import torch
import transformers
from merges import every, mix
from safetensors.torch import load_file, save_file

from evomerge.errors import CheckpointError
from evomerge.merging.kernels.torch_views import as_tensor
from evomerge.merging.resident import Resident
from evomerge.merging.tensors.adapters import adapter_changes
from evomerge.merging.tensors.plan import SourceTensor
from evomerge.merging.tensors.reader import TensorReader
from evomerge.merging.writer import unchanged, write_model
from evomerge.models.checkpoint import Checkpoint

NAME, WEIGHTS = "model+adapter", "model.safetensors"
KINDS = {
    "plain": ("llama", {"target_modules": ["q_proj", "down_proj"]}),
    "Conv1D": ("gpt2", {"target_modules": ["c_attn", "c_proj"]}),
    "patterns": (
        "llama",
        {
            "target_modules": ["q_proj", "v_proj", "down_proj"],
            "rank_pattern": {"down_proj": 2, "layers.1.self_attn.q_proj": 6},
            "alpha_pattern": {"layers.1.self_attn.q_proj": 32, "v_proj": 1},
        },
    ),
    "rank_stabilised": ("llama", {"target_modules": ["q_proj"], "use_rslora": True}),
    "embedding": ("llama", {"target_modules": ["embed_tokens", "q_proj"]}),
    "saved_modules": ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    "biases": ("gpt2", {"target_modules": ["c_fc"], "bias": "all"}),
}
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
FUSED = {
    "stored one by one": (
        "qwen3_moe",
        {
            "target_modules": ["q_proj"],
            "target_parameters": EXPERTS,
            "rank_pattern": {"gate_up_proj": 2},
            "alpha_pattern": {"layers.1.mlp.experts.down_proj": 5},
        },
    ),
    "a router, too": ("qwen3_moe", {"target_parameters": [EXPERTS[1], "mlp.gate.weight"]}),
    "transposed squares": ("gpt_oss", {"target_parameters": EXPERTS, "use_rslora": True}),
}
"""Adapters on parameters that hold all experts of a layer."""

SAVED = {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}
RUN = {
    "saved embeddings": ("llama", SAVED),
    "classifier": ("roberta", {"target_modules": ["query"], "task_type": "SEQ_CLS"}),
    "seen": ("qwen2_vl", {"target_modules": "all-linear"}),
    "another name on disk": ("mixtral", {**SAVED, "modules_to_save": ["gate"]}),
}


def load(folder, architecture):
    if architecture != "roberta":
        return tiny.load(folder)
    with tiny.quiet():
        return transformers.AutoModelForSequenceClassification.from_pretrained(folder)


def adapted(folder, architecture, options, **how):
    """Save a model and a random adapter, and return the two as a parent."""
    make = tiny.make_classifier if architecture == "roberta" else tiny.make
    make(folder / "model", architecture, **how)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = peft.LoraConfig(r=4, **{"lora_alpha": 8, **options})
        model = peft.get_peft_model(load(folder / "model", architecture), config)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for _, weight in sorted(model.named_parameters()):
                if weight.requires_grad:
                    weight += 0.3 * torch.randn(weight.shape, generator=generator)
        model.save_pretrained(folder / "adapter")
    return Checkpoint.open(folder / "model", NAME, adapter=folder / "adapter")


def by_peft(folder, architecture):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = load(folder / "model", architecture)
        return peft.PeftModel.from_pretrained(model, folder / "adapter")


@tiny.since_transformers_5  # before, each expert of Qwen3-MoE is a module
@pytest.mark.parametrize("kind", FUSED)
def test_every_tensor_of_fused_experts_equals_that_of_a_merge_by_peft(kind, tmp_path):
    architecture, options = FUSED[kind]
    compare_with_peft(tmp_path, architecture, {"target_modules": [], **options})


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_equals_that_of_a_merge_by_peft(kind, tmp_path):
    compare_with_peft(tmp_path, *KINDS[kind])


def compare_with_peft(tmp_path, architecture, options):
    parent = adapted(tmp_path, architecture, options, tied=False)
    by_peft(tmp_path, architecture).merge_and_unload().save_pretrained(tmp_path / "merged")
    reader = TensorReader({NAME: parent})
    expected, before = (load_file(tmp_path / name / WEIGHTS) for name in ("merged", "model"))
    assert parent.tensors.keys() == expected.keys()
    for name, theirs in expected.items():
        ours = as_tensor(reader.read(SourceTensor(NAME, name)))
        torch.testing.assert_close(ours.float(), theirs, rtol=1e-5, atol=1e-6)
    assert any(not torch.allclose(before[name], theirs) for name, theirs in expected.items())


@tiny.since_transformers_5  # before, the router of Mixtral has its name on disk
@pytest.mark.parametrize("kind", RUN)
def test_an_adapter_that_is_merged_alone_is_what_peft_runs(kind, tmp_path):
    architecture, options = RUN[kind]
    parent = adapted(tmp_path, architecture, options)
    write_model(unchanged(parent, "float32"), {NAME: parent}, tmp_path / "out")
    models = load(tmp_path / "out", architecture), by_peft(tmp_path, architecture)
    torch.testing.assert_close(*map(tiny.logits, models), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("llama", {"target_modules": ["embed_tokens", "q_proj"]}),
        ("llama", {"target_modules": ["lm_head", "q_proj"]}),
        ("llama", SAVED),
        ("t5", {"target_modules": ["shared", "q"]}),
    ],
)
def test_tied_embeddings_cannot_be_changed(kind, options, tmp_path):
    """PEFT may compute with two matrices where the checkpoint has one."""
    parent = adapted(tmp_path, kind, options, tied=True)
    with pytest.raises(CheckpointError, match=r"one matrix of the model \(tied\)"):
        adapter_changes({NAME: parent})


def test_a_merge_uses_the_adapter_in_memory_and_on_disk(tmp_path):
    parent = adapted(tmp_path, "llama", {"target_modules": ["q_proj", "embed_tokens"]})
    by_peft(tmp_path, "llama").merge_and_unload().save_pretrained(tmp_path / "merged")
    plain, whole = (Checkpoint.open(tmp_path / n, n) for n in ("model", "merged"))
    for out, other in (("lazy", parent), ("whole", whole)):
        recipe = every(plain, lambda i, pair=("model", other.reference): mix(pair, i))
        write_model(recipe, {"model": plain, other.reference: other}, tmp_path / out)
    ours, expected = (load_file(tmp_path / n / WEIGHTS) for n in ("lazy", "whole"))
    for name, theirs in expected.items():
        torch.testing.assert_close(ours[name], theirs, rtol=2**-7, atol=1e-7)
    recipe = every(plain, lambda i: mix(("model", NAME), i))
    model = Resident({"model": plain, NAME: parent}, recipe.host, recipe.dtype).apply(recipe)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, ours[name]), name


REFUSED = [
    ({"peft_type": "IA3"}, "has peft_type 'IA3'"),
    ({"use_dora": True}, "has use_dora True, which is not supported; merge the adapter into its"),
    ({"layer_replication": [[0, 1]]}, "layer_replication"),
    ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa'"),
    ({"lora_alpha": "much"}, "lora_alpha` is 'much'; it must be a number"),
]
FUSED_LAYER = "base_model.model.model.layers.0.mlp.experts"
FUSED_MISFITS = [
    ({}, {f"{FUSED_LAYER}.lora_A.weight": (13, 16)}, r"gate_up_proj' has shapes A \[13, 16\], B"),
    ({}, {f"{FUSED_LAYER}.lora_B.weight": (9, 12)}, r"do not fit .* \[3, 16, 16\]; give the model"),
    ({}, {f"{FUSED_LAYER}.base_layer.lora_A.weight": (4, 16)}, "which the model does not have"),
    ({"target_parameters": ["q_norm.weight"]}, {}, "which the model does not have"),
    ({"target_parameters": "experts"}, {}, "target_parameters` is 'experts'; it must be a list"),
]
LAYER = "base_model.model.model.layers.0"
TOKENS = r"'model.embed_tokens' has .* \[30, 16\]"
MISFITS = [
    ("base_model.model.model.layers.7.mlp.up_proj.lora_A.weight", (4, 16), "was trained on"),
    ("base_model.model.model.embed_tokens.weight", (30, 16), TOKENS),
    (f"{LAYER}.mlp.up_proj.lora_A.weight", (4, 16), r"shapes A \[4, 16\], which do not fit"),
    (f"{LAYER}.self_attn.q_proj.lora_B.weight", (9, 4), r"A \[4, 16\], B \[9, 4\], which do not"),
    (f"{LAYER}.self_attn.q_proj.lora_B.weight", (16, 3), "was trained on"),
    (f"{LAYER}.self_attn.q_proj.lora_A.weight", (), "which do not fit"),
    (f"{LAYER}.self_attn.q_proj.lora_B.bias", (16,), "was trained on"),
    (f"{LAYER}.self_attn.q_proj.lora_embedding_B", (16, 4), "which do not fit"),
    ("base_model.model.model.norm.strange_part", (16,), "kind that is not supported"),
]


def test_what_is_not_supported_or_does_not_fit_is_refused(tmp_path):
    parent = adapted(tmp_path, "llama", {"target_modules": ["q_proj"]})
    names = ("adapter_config.json", "adapter_model.safetensors")
    config, weights = (tmp_path / "adapter" / name for name in names)
    settings, tensors = json.loads(config.read_text()), load_file(weights)
    for change, message in REFUSED:
        config.write_text(json.dumps(settings | change))
        with pytest.raises(CheckpointError, match=message):
            adapter_changes({NAME: parent})
    config.write_text(json.dumps(settings))
    for name, shape, message in MISFITS:
        save_file({**tensors, name: torch.zeros(shape)}, weights)
        with pytest.raises(CheckpointError, match=message):
            adapter_changes({NAME: parent})
    for file in (weights, config):
        file.rename(file.with_suffix(".bin"))
        with pytest.raises(CheckpointError, match=f"has no {file.name}; save .* as safetensors"):
            adapter_changes({NAME: parent})


@tiny.since_transformers_5  # before, each expert of Qwen3-MoE is a module
def test_matrices_that_do_not_fit_fused_experts_are_refused(tmp_path):
    options = {"target_modules": [], "target_parameters": EXPERTS[:1]}
    parent = adapted(tmp_path, "qwen3_moe", options)
    names = ("adapter_config.json", "adapter_model.safetensors")
    config, weights = (tmp_path / "adapter" / name for name in names)
    settings, tensors = json.loads(config.read_text()), load_file(weights)
    for change, shapes, message in FUSED_MISFITS:
        config.write_text(json.dumps(settings | change))
        save_file(tensors | {name: torch.zeros(shape) for name, shape in shapes.items()}, weights)
        with pytest.raises(CheckpointError, match=message):
            adapter_changes({NAME: parent})


def test_an_adapter_on_single_experts_changes_those_of_the_checkpoint(tmp_path):
    """PEFT wrote such adapters with transformers 4, where each expert was a module."""
    folder = tiny.make(tmp_path / "model", "mixtral")
    before = load_file(folder / WEIGHTS)
    name = next(name for name in before if ".experts.1." in name)
    up, down = torch.randn(before[name].shape[0], 2), torch.randn(2, before[name].shape[1])
    key = f"base_model.model.{name.removesuffix('.weight')}.lora"
    halves = {f"{key}_B.weight": up, f"{key}_A.weight": down}
    save_file(halves, tmp_path / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 3, "target_modules": ["w1"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    parents = {NAME: Checkpoint.open(folder, NAME, adapter=tmp_path)}
    reader = TensorReader(parents)
    for other, tensor in before.items():
        wanted = tensor + 1.5 * up @ down if other == name else tensor
        torch.testing.assert_close(as_tensor(reader.read(SourceTensor(NAME, other))), wanted)
    recipe = unchanged(parents[NAME], "float32")
    write_model(recipe, parents, tmp_path / "out")
    stock = dict(tiny.load(tmp_path / "out").named_parameters())
    model = Resident(parents, NAME, "float32").apply(recipe)
    for key, weight in model.named_parameters():
        assert torch.equal(weight, stock[key])
