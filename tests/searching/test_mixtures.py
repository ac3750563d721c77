"""Searches over mixtures of experts: each expert is merged by itself."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from small_models import make_mixture

import evomerge


def test_a_search_decides_how_much_of_a_model_each_expert_is(tmp_path):
    """Each expert has a weight of its own in each group of layers."""
    base, parent = (
        str(make_mixture(tmp_path / name, name, (name, "maths"))) for name in ("base", "language")
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
