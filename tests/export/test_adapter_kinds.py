"""Adapters of many kinds of models, in and out: PEFT gives the model of the merge."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import seeing
import tiny
import torch
import transformers
from safetensors.torch import load_file

import evomerge
from evomerge.errors import CheckpointError

LOADERS = {
    "Sequence": "AutoModelForSequenceClassification",
    "Token": "AutoModelForTokenClassification",
}


def make(folder: Path, kind: str, **how: Any) -> Path:
    architecture, _, head = kind.partition(" ")
    if head:
        return tiny.make_classifier(folder, architecture, head=head, **how)
    return tiny.make(folder, architecture, **how)


def load(folder: Path, kind: str) -> Any:
    head = kind.partition(" ")[2]
    if not head:
        return tiny.load(folder)
    with tiny.quiet():
        return getattr(transformers, LOADERS[head]).from_pretrained(folder)


def by_card(adapter: Path) -> Any:
    """Load an adapter as its card says, with nothing but its folder."""
    text = (adapter / "README.md").read_text()
    loader = getattr(peft, text.split("from peft import ")[1].split("\n")[0])
    with warnings.catch_warnings(), tiny.quiet():
        warnings.simplefilter("ignore")
        return loader.from_pretrained(adapter)


def check_same(adapter: Path, folder: Path, kind: str) -> None:
    """Check that an adapter, by PEFT and as a parent, is the model of a folder."""
    expected = tiny.logits(load(folder, kind))
    torch.testing.assert_close(tiny.logits(by_card(adapter)), expected, rtol=1e-4, atol=1e-4)
    base = json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
    evomerge.merge(written(f"{base}+{adapter}", adapter.parent / "as.yaml"), adapter.parent / "as")
    found = tiny.logits(load(adapter.parent / "as", kind))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def written(parent: str, file: Path) -> Path:
    """Write a recipe that is a parent as it is."""
    models = [{"model": parent, "parameters": {"weight": 1}}]
    file.write_text(json.dumps({"merge_method": "linear", "models": models, "dtype": "float32"}))
    return file


@pytest.mark.thorough
@pytest.mark.parametrize(
    "kind",
    [
        *("gpt2", "gpt_neox", "bert", "t5"),
        *("bert Sequence", "roberta Sequence", "llama Sequence", "bert Token"),
    ],
)
def test_a_model_that_changed_everywhere(kind, tmp_path):
    base, other = (make(tmp_path / str(seed), kind, seed=seed) for seed in (0, 1))
    found = evomerge.extract(base, other, tmp_path / "adapter", rank=48)
    assert found.error < 1e-5 and not found.notes
    check_same(tmp_path / "adapter", other, kind)


@pytest.mark.parametrize("changed", ["layers.1.input_layernorm", "model.norm", "1.mlp.up_proj"])
def test_a_change_in_one_place_only(changed, tmp_path):
    base, other = (tiny.make(tmp_path / name) for name in ("base", "other"))

    def change(tensors):
        for name in tensors:
            if changed in name or "0.self_attn.q_proj" in name:
                tensors[name] += 0.3

    tiny.rewrite(other, change)
    evomerge.extract(base, other, tmp_path / "adapter", rank=4)
    check_same(tmp_path / "adapter", other, "llama")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert "model.layers.0.self_attn.q_proj" in config["target_modules"]  # and not the others
    names = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert sum(".lora_A." in name for name in names) == len(config["target_modules"])


def adapted(base: Path, out: Path, kind: str, **options: Any) -> Path:
    """Save a random adapter of a model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(load(base, kind), peft.LoraConfig(r=2, **options))
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for _, weight in sorted(model.named_parameters()):
                if weight.requires_grad:
                    weight += 0.3 * torch.randn(weight.shape, generator=generator)
        model.save_pretrained(out)
    return out


def run_by_peft(base: Path, adapter: Path, kind: str) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tiny.logits(peft.PeftModel.from_pretrained(load(base, kind), adapter))


HEAD = ["embed_tokens", "lm_head"]
TIED = {"ensure_weight_tying": True}
KINDS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "saved embeddings": ("llama", {}, {"target_modules": ["q_proj"], "modules_to_save": HEAD}),
    "saved, tied": (
        *("llama", {"tied": True}),
        {"target_modules": ["q_proj"], "modules_to_save": HEAD[:1], **TIED},
    ),
    "tied": ("llama", {"tied": True}, {"target_modules": ["q_proj", "embed_tokens"], **TIED}),
    "saved classifier": (
        *("roberta Sequence", {}),
        {"target_modules": ["query"], "task_type": "SEQ_CLS"},
    ),
    "biases of norms": ("gpt2", {}, {"target_modules": ["c_proj"], "bias": "all"}),
    "seen": ("qwen2_vl", {}, {"target_modules": "all-linear"}),
}


@pytest.mark.parametrize("name", KINDS)
def test_an_adapter_that_is_merged_alone_loses_nothing(name, tmp_path):
    kind, how, options = KINDS[name]
    base = make(tmp_path / "base", kind, **how)
    adapter = adapted(base, tmp_path / "in", kind, **options)
    expected = run_by_peft(base, adapter, kind)
    recipe = written(f"{base}+{adapter}", tmp_path / "recipe.yaml")
    evomerge.merge(recipe, tmp_path / "merged")
    found = tiny.logits(load(tmp_path / "merged", kind))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    again = evomerge.merge_adapter(recipe, tmp_path / "adapter")
    assert again.error < 1e-5 and again.rank == 2
    check_same(tmp_path / "adapter", tmp_path / "merged", kind)


@tiny.since_transformers_5  # before, the router is a linear layer that has the name on disk
def test_a_module_that_has_another_name_on_disk_is_found(tmp_path):
    base = tiny.make(tmp_path / "base", "mixtral")
    options = {"target_modules": ["q_proj"], "modules_to_save": ["gate"]}
    adapter = adapted(base, tmp_path / "in", "mixtral", **options)
    evomerge.merge(written(f"{base}+{adapter}", tmp_path / "recipe.yaml"), tmp_path / "merged")
    expected = run_by_peft(base, adapter, "mixtral")
    torch.testing.assert_close(tiny.logits(tiny.load(tmp_path / "merged")), expected)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("llama", {"target_modules": ["embed_tokens", "q_proj"]}),
        ("llama", {"target_modules": ["lm_head", "q_proj"]}),
        ("llama", {"target_modules": HEAD}),
        ("llama", {"target_modules": ["q_proj"], "modules_to_save": HEAD[:1]}),
        ("llama", {"target_modules": ["q_proj"], "modules_to_save": HEAD}),
        ("gpt2", {"target_modules": ["wte", "c_attn"]}),
        ("t5", {"target_modules": ["shared", "q"]}),
    ],
)
def test_half_of_tied_embeddings_cannot_be_merged(kind, options, tmp_path):
    """PEFT computes with two matrices where the checkpoint has one."""
    base = tiny.make(tmp_path / "base", kind, tied=True)
    adapter = adapted(base, tmp_path / "in", kind, **options)
    with pytest.raises(CheckpointError, match="changes embeddings and head in different ways"):
        evomerge.merge(written(f"{base}+{adapter}", tmp_path / "recipe.yaml"), tmp_path / "out")


def test_what_a_base_lacks_or_has_besides_is_refused(tmp_path):
    tied, untied = (tiny.make(tmp_path / f"{how}", tied=how) for how in (True, False))
    for base, model in ((tied, untied), (untied, tied)):
        with pytest.raises(CheckpointError, match="an adapter keeps the kind of head"):
            evomerge.extract(base, model, tmp_path / "out", rank=4)
    biased = tiny.make(tmp_path / "biased", "qwen2", tied=False)
    for base, model in ((biased, untied), (untied, biased)):
        with pytest.raises(CheckpointError, match=r"k_proj.bias' .* has no counterpart in"):
            evomerge.extract(base, model, tmp_path / "out", rank=4)


def test_a_model_that_sees_is_no_base_of_one_that_does_not(tmp_path):
    sees, text = (tmp_path / name for name in ("sees", "text"))
    seeing.make(sees, "llava")
    seeing.make(text, "llava/text", seed=1)
    with pytest.raises(CheckpointError, match=r"has no vision tower and .*sees' vision, projector"):
        evomerge.extract(sees, text, tmp_path / "adapter", rank=4)


def test_a_copy_of_a_tied_head_on_disk_is_no_change(tmp_path):
    base, other = (tiny.make(tmp_path / str(seed), seed=seed, tied=True) for seed in (0, 1))

    def copy_head(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    for folder, out in ((other, "one"), (base, "both")):
        tiny.rewrite(folder, copy_head)
        (tmp_path / out).mkdir()
        evomerge.extract(base, other, tmp_path / out / "adapter", rank=48)
        check_same(tmp_path / out / "adapter", other, "llama")


def test_settings_that_an_adapter_leaves_to_its_base_are_named(tmp_path, capsys):
    base, other = (tiny.make(tmp_path / str(seed), seed=seed) for seed in (0, 1))
    tiny.edit_config(other, rms_norm_eps=0.1, eos_token_id=3)
    (note,) = evomerge.extract(base, other, tmp_path / "adapter", rank=4).notes
    assert "in which eos_token_id, rms_norm_eps differ from those of the merge" in note
