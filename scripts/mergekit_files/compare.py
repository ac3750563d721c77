"""Compares two checkpoints tensor by tensor."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

ROUNDING = 2e-6


def compare(ours: Path, theirs: Path) -> tuple[str, str]:
    """Return a verdict and what differs most.

    Rows of embeddings and head are compared by token if both tokenizers have the same tokens:
    a union of tokenizers may number them differently.
    """
    one, two = _tensors(ours), _tensors(theirs)
    if one.keys() != two.keys():
        names = sorted(one.keys() ^ two.keys())
        return "other names", f"{len(names)} of {len(one.keys() | two.keys())}, such as {names[0]}"
    shapes = [name for name in one if one[name].shape != two[name].shape]
    if shapes:
        name = shapes[0]
        return "differs", f"{name} is {list(one[name].shape)} and {list(two[name].shape)}"
    places = _reordered(ours, theirs)
    if places is not None:
        for name, tensor in one.items():
            if tensor.dim() == 2 and len(tensor) == len(places):
                one[name] = tensor[places]
    worst, name = max((_distance(one[name], two[name]), name) for name in one)
    if not worst:
        return "equal", ""
    return "rounding" if worst <= ROUNDING else "differs", f"{worst:.1e} {name}"


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted(folder.glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def _distance(one: torch.Tensor, two: torch.Tensor) -> float:
    """Return the L2 norm of the difference as a share of that of the second tensor."""
    one, two = one.double(), two.double()
    if torch.equal(one, two):
        return 0.0
    distance = float((one - two).norm() / two.norm().clamp_min(1e-30))
    return distance if distance == distance else float("inf")


def _reordered(ours: Path, theirs: Path) -> list[int] | None:
    """Return our id of the token of each of their ids, or None if there is no need for it."""
    one, two = (_vocabulary(folder / "tokenizer.json") for folder in (ours, theirs))
    if one == two or one.keys() != two.keys():
        return None
    return [one[token] for token in sorted(two, key=two.__getitem__)]


def _vocabulary(file: Path) -> dict[str, int]:
    if not file.is_file():
        return {}
    content = json.loads(file.read_text(encoding="utf-8"))
    added = {token["content"]: token["id"] for token in content["added_tokens"]}
    return {**content["model"]["vocab"], **added}
