"""Make the adapters of configs/adapters.yaml: LoRA adapters of `zoo:base`, from the zoo's experts.

    python -m scripts.zoo.adapters configs/adapters

An adapter is the best approximation of an expert's change of a weight by a matrix of low rank.
`language` and `maths` have all layers; of the 18 others, each has one layer of one expert.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from evomerge import zoo


def adapter(expert: str, part: str, rank: int) -> dict[str, Tensor]:
    """Return the tensors of the adapter for all matrices whose names contain `part`."""
    before, after = (load_file(zoo.path(name) / "model.safetensors") for name in ("base", expert))
    found = {}
    for name, weight in before.items():
        change = (after[name] - weight).double()
        if part not in name or change.ndim != 2 or not change.any():
            continue
        is_embedding = "embed_tokens" in name  # which PEFT stores transposed
        left, sizes, right = torch.linalg.svd(change.T if is_embedding else change)
        roots = sizes[:rank].sqrt()
        kind = ("lora_embedding_A", "lora_embedding_B") if is_embedding else _LINEAR
        module = f"base_model.model.{name.removesuffix('.weight')}"
        found[f"{module}.{kind[0]}"] = (roots[:, None] * right[:rank]).half().contiguous()
        found[f"{module}.{kind[1]}"] = (left[:, :rank] * roots).half().contiguous()
    return found


_LINEAR = ("lora_A.weight", "lora_B.weight")


def write(folder: Path, expert: str, part: str, rank: int) -> None:
    """Write an adapter as PEFT does."""
    folder.mkdir(parents=True)
    tensors = adapter(expert, part, rank)
    modules = {key.split(".lora_")[0].rpartition(".")[2] for key in tensors}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": sorted(modules),
    }
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")


def write_all(folder: Path) -> None:
    """Write all adapters into a new folder."""
    for expert in ("language", "maths"):
        write(folder / expert, expert, "", rank=8)
    for expert in ("facts", "language", "steps"):
        for layer in range(6):
            write(folder / f"{expert}-{layer}", expert, f"layers.{layer}.", rank=4)


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
