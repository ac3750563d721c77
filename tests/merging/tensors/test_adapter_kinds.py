"""Adapters of many kinds of models as parents: PEFT gives the model of the merge."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import tiny
import torch
import transformers

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


def written(parent: str, file: Path) -> Path:
    """Write a recipe that is a parent as it is."""
    models = [{"model": parent, "parameters": {"weight": 1}}]
    file.write_text(json.dumps({"merge_method": "linear", "models": models, "dtype": "float32"}))
    return file


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
def test_an_adapter_that_is_merged_alone_is_what_peft_runs(name, tmp_path):
    kind, how, options = KINDS[name]
    base = make(tmp_path / "base", kind, **how)
    adapter = adapted(base, tmp_path / "in", kind, **options)
    expected = run_by_peft(base, adapter, kind)
    recipe = written(f"{base}+{adapter}", tmp_path / "recipe.yaml")
    evomerge.merge(recipe, tmp_path / "merged")
    found = tiny.logits(load(tmp_path / "merged", kind))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


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
