"""Our tensors against those that mergekit made of the same parents and knobs."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from fusion import undecided
from safetensors import safe_open
from safetensors.torch import load_file

from evomerge.merging.methods import get_method
from evomerge.merging.methods.method import check_knobs
from evomerge.testing.methods import on_tensors

DATA = Path(__file__).parents[2] / "data"
WHOLE = Path(__file__).parents[4] / "shared" / "oracle"
RECIPES: dict[str, dict[str, Any]] = json.loads((DATA / "oracle.json").read_text())

CRUMBS = [name for name in RECIPES if name.startswith("breadcrumbs")]
EXACT = [name for name in RECIPES if not (name.endswith("bf16") or RECIPES[name]["random"])]

Tensors = dict[str, torch.Tensor]


@cache
def model(name: str) -> Tensors:
    """Tensors of a parent or of what mergekit made by a recipe."""
    folder = WHOLE / ("merged" if name in RECIPES else "parents") / name
    if folder.is_dir():
        return load_file(folder / "model.safetensors")
    with safe_open(DATA / "oracle.safetensors", "pt") as file:
        keys = [key for key in file.keys() if key.startswith(f"{name}/")]  # noqa: SIM118
        return {key.removeprefix(f"{name}/"): file.get_tensor(key) for key in keys}


def ours(name: str) -> Tensors:
    """Merge by a recipe, in float32."""
    recipe = RECIPES[name]
    method = get_method(recipe["method"])
    base = recipe["base"] if method.base != "none" else None
    sources = [item for item in recipe["sources"] if item["parent"] != base]
    knobs = check_knobs(
        method, [item["knobs"] for item in sources], recipe["knobs"], has_base=base is not None
    )
    result = {}
    for tensor in model(name):
        tensors = [model(item["parent"])[tensor] for item in sources]
        merge = on_tensors(method.prepare)(tensors, model(base)[tensor] if base else None)
        result[tensor] = torch.empty(model(name)[tensor].shape)
        merge(*knobs, result[tensor])
    return result


@pytest.mark.parametrize("name", EXACT)
def test_deterministic_methods_agree(name: str) -> None:
    merged = ours(name)
    for tensor, theirs in model(name).items():
        if name in CRUMBS and theirs.dim() == 1:
            continue  # mergekit drops the whole change of a tensor with gamma n < 1; see below
        compared = torch.ones_like(theirs, dtype=torch.bool)
        if name.startswith("arcee_fusion"):
            source, base = RECIPES[name]["sources"][1]["parent"], RECIPES[name]["base"]
            compared = ~undecided(model(source)[tensor], model(base)[tensor])
        torch.testing.assert_close(
            merged[tensor][compared], theirs[compared], rtol=1e-5, atol=1e-7, msg=tensor
        )
