"""Searches over mixtures of experts: each expert is merged by itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from killed import check_never_killed, searched
from safetensors.torch import load_file, save_file
from search_run import write_search

import evomerge
from evomerge import zoo

PARTS = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}


def mixture(out: Path, base: str, experts: tuple[str, str]) -> str:
    """Save a Mixtral: a model of the zoo with the MLPs of two others, and routers by chance."""
    weights = {name: load_file(zoo.path(name) / "model.safetensors") for name in (base, *experts)}
    tensors = {name: item for name, item in weights[base].items() if ".mlp." not in name}
    for name in weights[base].keys() - tensors.keys():
        block, part = name.split("mlp.")
        for number, expert in enumerate(experts):
            inside = f"block_sparse_moe.experts.{number}.{PARTS[part.split('.')[0]]}.weight"
            tensors[f"{block}{inside}"] = weights[expert][name].clone()
    config = json.loads((zoo.path(base) / "config.json").read_text())
    chance = torch.Generator().manual_seed(0)
    for layer in range(config["num_hidden_layers"]):
        gate = torch.randn(2, config["hidden_size"], generator=chance)
        tensors[f"model.layers.{layer}.block_sparse_moe.gate.weight"] = gate
    shutil.copytree(zoo.path(base), out)
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    kind = {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"]}
    config |= {**kind, "num_local_experts": 2, "num_experts_per_tok": 2}
    (out / "config.json").write_text(json.dumps(config))
    return str(out)


@pytest.mark.thorough
def test_a_search_over_mixtures_is_resumed_and_exported(tmp_path):
    base = mixture(tmp_path / "base", "base", ("base", "base"))
    parents = [
        mixture(tmp_path / order[0], order[0], order)
        for order in (("language", "maths"), ("maths", "language"))
    ]
    space = {"method": "task_arithmetic", "groups": "each", "knobs": {"weight": [0.0, 2.0]}}
    file = write_search(
        tmp_path,
        parents=parents,
        base=base,
        space={**space, "components": "each"},
        optimizer={"name": "gradient", "steps": 10},
        budget={"candidates": 5},
    )
    run = searched(file, tmp_path / "whole")
    check_never_killed(file, tmp_path / "parts", run.folder, 6)

    best = run.winner
    assert best is not None and best.number > 2
    for part in ("experts.0.w1", "experts.1.w1", "gate"):  # have weights of their own
        assert any(f"layers[3:4].{part}." in gene for gene in run.genes())
    out = run.export(tmp_path / "model")
    again = evomerge.evaluate(out, run.folder / "search.yaml", split="search")
    assert {key: item.value for key, item in again.items()} == best.scores("search").aggregates


def test_a_search_decides_how_much_of_a_model_each_expert_is(tmp_path):
    """Each expert has a weight of its own in each group of layers."""
    base, parent = (
        mixture(tmp_path / name, name, (name, "maths")) for name in ("base", "language")
    )
    config = {
        "parents": [parent],
        "base": base,
        "dtype": "float32",
        "space": {
            "method": "task_arithmetic",
            "groups": "each",
            "components": ["expert_0", "expert_1"],
            "embeddings": False,
            "knobs": {"weight": [0.0, 1.0]},
        },
        "objectives": [{"told": "wins"}],
        "budget": {"candidates": 60},
    }
    with evomerge.Study(config, run=tmp_path / "run") as study:
        candidate = next(item for item in study if item.name == "optimizer" or study.tell(item, 0))
        weights = load_file(candidate.save(tmp_path / "out") / "model.safetensors")
    old, new = (load_file(Path(folder) / "model.safetensors") for folder in (base, parent))
    for layer in range(6):
        for part in ("expert_0", "expert_1", "rest"):
            inside = {"rest": "gate"}.get(part, f"experts.{part[-1]}.w1")
            name = f"model.layers.{layer}.block_sparse_moe.{inside}.weight"
            (gene,) = (
                value
                for key, value in candidate.genes.items()
                if f"[{layer}:{layer + 1}]" in key and part in key
            )
            wanted = old[name] + gene * (new[name] - old[name])
            torch.testing.assert_close(weights[name], wanted, atol=1e-6, rtol=1e-5)
