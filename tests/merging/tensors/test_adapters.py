"""LoRA parents against PEFT's own merge_and_unload."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from evomerge.errors import CheckpointError
from evomerge.merging.backend import resident, write
from evomerge.merging.kernels.torch_views import as_tensor
from evomerge.merging.tensors.adapters import adapter_patches
from evomerge.merging.tensors.plan import SourceTensor
from evomerge.merging.tensors.reader import TensorReader
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe import Layer, Recipe, Source

KINDS: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": ["q_proj", "down_proj"]},
    "patterns": {
        "lora_alpha": 8,
        "target_modules": ["q_proj", "v_proj", "down_proj"],
        "rank_pattern": {"down_proj": 2, "layers.1.self_attn.q_proj": 6},
        "alpha_pattern": {"layers.1.self_attn.q_proj": 32, "v_proj": 1},
    },
    "rank_stabilised": {"target_modules": ["q_proj"], "use_rslora": True},
    "dora": {"target_modules": ["q_proj", "down_proj"], "use_dora": True},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "embedding_dora": {"target_modules": ["embed_tokens"], "use_dora": True},
    "saved_modules": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "norm"]},
    "biases": {"target_modules": ["q_proj"], "bias": "all"},
    "bias_of_the_delta": {"target_modules": ["q_proj"], "lora_bias": True},
}
GPT2 = {
    "q_proj": "c_attn",
    "v_proj": "c_fc",
    "down_proj": "c_proj",
    "embed_tokens": "wte",
    "norm": "ln_f",
    "layers.1.self_attn.q_proj": "h.1.attn.c_attn",
}


def llama(*, bias: bool = False) -> Any:
    config = transformers.LlamaConfig(
        vocab_size=24,
        hidden_size=16,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        attention_bias=bias,
    )
    return transformers.LlamaForCausalLM(config)


def gpt2() -> Any:
    config = transformers.GPT2Config(
        vocab_size=24,
        n_embd=16,
        n_layer=2,
        n_head=2,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
    )
    return transformers.GPT2LMHeadModel(config)


def as_gpt2(value: Any) -> Any:
    if isinstance(value, list):
        return [GPT2[item] for item in value if item != "lm_head"]
    if isinstance(value, dict):
        return {GPT2[key]: item for key, item in value.items()}
    return value


def make(folder: Path, model: Any, options: dict[str, Any]) -> tuple[Checkpoint, Path]:
    """Save a model and a random adapter, and what PEFT makes of both."""
    torch.manual_seed(0)
    model.save_pretrained(folder / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = get_peft_model(model, LoraConfig(r=4, **options))
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(torch.randn_like(parameter) * 0.3 + ("magnitude" in name))
        adapted.save_pretrained(folder / "adapter")
        again = type(model).from_pretrained(folder / "model")
        merged = PeftModel.from_pretrained(again, folder / "adapter").merge_and_unload()
    merged.save_pretrained(folder / "merged")
    parent = Checkpoint.open(folder / "model", "model+adapter", adapter=folder / "adapter")
    return parent, folder / "merged"


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_equals_that_of_a_merge_by_peft(
    kind: str, architecture: str, tmp_path: Path
) -> None:
    options = KINDS[kind]
    model = llama(bias="bias" in kind) if architecture == "llama" else gpt2()
    if architecture == "gpt2":
        options = {key: as_gpt2(value) for key, value in options.items()}
    parent, merged = make(tmp_path, model, {"lora_alpha": 8, **options})
    reader = TensorReader({parent.reference: parent}, adapter_patches({parent.reference: parent}))
    expected = load_file(merged / "model.safetensors")
    before = load_file(tmp_path / "model" / "model.safetensors")
    assert parent.tensors.keys() == expected.keys()
    changed = 0
    for name, theirs in expected.items():
        ours = as_tensor(reader.read(SourceTensor(parent.reference, name)))
        torch.testing.assert_close(ours.float(), theirs, rtol=1e-5, atol=1e-6)
        changed += not torch.allclose(before[name], theirs)
    assert changed >= 1


def recipe(parents: list[str], layers: int, dtype: str) -> Recipe:
    def layer(block: int | None) -> Layer:
        return Layer("linear", tuple(Source(name, block, {"weight": 1}) for name in parents))

    blocks = tuple(layer(i) for i in range(layers))
    return Recipe(parents[0], {"model.layers": blocks}, layer(None), layer(None), dtype)


def test_a_merge_uses_the_adapter_and_writes_no_merged_copy(tmp_path: Path) -> None:
    parent, merged = make(tmp_path, llama(), {"target_modules": ["q_proj", "embed_tokens"]})
    plain = Checkpoint.open(tmp_path / "model", "plain")
    whole = Checkpoint.open(merged, "merged")
    folders = set(tmp_path.iterdir())
    for out, other in (("lazy", parent), ("whole", whole)):
        wanted = recipe(["plain", other.reference], 2, "bfloat16")
        write(wanted, {"plain": plain, other.reference: other}, tmp_path / out)
    assert set(tmp_path.iterdir()) == {*folders, tmp_path / "lazy", tmp_path / "whole"}
    ours = load_file(tmp_path / "lazy" / "model.safetensors")
    expected = load_file(tmp_path / "whole" / "model.safetensors")
    assert ours.keys() == expected.keys()
    for name, theirs in expected.items():
        torch.testing.assert_close(ours[name], theirs, rtol=2**-7, atol=1e-7)
    wanted = recipe(["plain", parent.reference], 2, "bfloat16")
    model = resident({"plain": plain, parent.reference: parent}, wanted, "cpu")
    for name, tensor in model.apply(wanted).state_dict().items():
        assert torch.equal(tensor, ours[name]), name


def test_an_adapted_host_keeps_its_dtype_in_copied_blocks(tmp_path: Path) -> None:
    model = llama().to(torch.bfloat16)
    parent, _ = make(tmp_path, model, {"target_modules": ["q_proj"]})
    wanted = Recipe(
        parent.reference,
        {},
        Layer("passthrough", (Source(parent.reference),)),
        Layer("passthrough", (Source(parent.reference),)),
        "bfloat16",
    )
    write(wanted, {parent.reference: parent}, tmp_path / "out")
    name = "model.layers.0.self_attn.q_proj.weight"
    out = load_file(tmp_path / "out" / "model.safetensors")[name]
    assert out.dtype == torch.bfloat16
    assert not torch.equal(out, load_file(tmp_path / "model" / "model.safetensors")[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3'"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"target_parameters": ["mlp.experts.gate_up_proj"]}, "target_parameters"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa'"),
    ],
)
def test_unsupported_adapters_are_refused_with_the_key(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    parent, _ = make(tmp_path, llama(), {"target_modules": ["q_proj"]})
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(CheckpointError, match=message):
        adapter_patches({parent.reference: parent})


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("base_model.model.model.layers.7.mlp.up_proj.lora_A.weight", (4, 16), "was trained on"),
        ("base_model.model.model.embed_tokens.weight", (30, 16), "resize"),
        ("base_model.model.model.layers.0.mlp.up_proj.lora_A.weight", (4, 16), "only one"),
        ("base_model.model.model.norm.strange_part", (16,), "kind that is not supported"),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight", (9, 4), "changes a"),
    ],
)
def test_adapters_that_do_not_fit_are_refused(
    name: str, shape: tuple[int, ...], message: str, tmp_path: Path
) -> None:
    parent, _ = make(tmp_path, llama(), {"target_modules": ["q_proj"]})
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({**load_file(file), name: torch.zeros(shape)}, file)
    with pytest.raises(CheckpointError, match=message):
        adapter_patches({parent.reference: parent})


def test_pickled_and_missing_adapters_are_refused(tmp_path: Path) -> None:
    parent, _ = make(tmp_path, llama(), {"target_modules": ["q_proj"]})
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    weights.rename(weights.with_name("adapter_model.bin"))
    with pytest.raises(CheckpointError, match="save it as safetensors"):
        adapter_patches({parent.reference: parent})
    (tmp_path / "adapter" / "adapter_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no adapter_config.json"):
        adapter_patches({parent.reference: parent})


def test_an_adapter_on_single_experts_changes_those_of_the_checkpoint(tmp_path: Path) -> None:
    """PEFT wrote such adapters with transformers 4, where each expert was a module."""
    import tiny

    folder = tiny.make(tmp_path / "model", "mixtral")
    before = load_file(folder / "model.safetensors")
    name = next(name for name in before if ".experts.1." in name)
    up, down = torch.randn(before[name].shape[0], 2), torch.randn(2, before[name].shape[1])
    module = name.removesuffix(".weight")
    (tmp_path / "adapter").mkdir()
    save_file(
        {
            f"base_model.model.{module}.lora_A.weight": down,
            f"base_model.model.{module}.lora_B.weight": up,
        },
        tmp_path / "adapter" / "adapter_model.safetensors",
    )
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 3, "target_modules": ["w1"]}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    parent = Checkpoint.open(folder, "model+adapter", adapter=tmp_path / "adapter")
    parents = {parent.reference: parent}
    reader = TensorReader(parents, adapter_patches(parents))
    for other, tensor in before.items():
        wanted = tensor + 1.5 * up @ down if other == name else tensor
        ours = as_tensor(reader.read(SourceTensor(parent.reference, other)))
        torch.testing.assert_close(ours, wanted)
    recipe = Recipe(
        parent.reference,
        {
            "model.layers": tuple(
                Layer("passthrough", (Source(parent.reference, i),)) for i in range(3)
            )
        },
        Layer("passthrough", (Source(parent.reference),)),
        Layer("passthrough", (Source(parent.reference),)),
        dtype="float32",
    )
    write(recipe, parents, tmp_path / "out")
    model = resident(parents, recipe, "cpu").apply(recipe)
    stock = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    for (_, one), (_, other_one) in zip(
        model.named_parameters(), stock.named_parameters(), strict=True
    ):
        assert torch.equal(one, other_one)
