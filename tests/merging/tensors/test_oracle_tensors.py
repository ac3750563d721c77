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

from evomerge.merging.kernels.noise import Noise
from evomerge.merging.methods import get_method
from evomerge.merging.methods.method import check_knobs
from evomerge.testing.methods import on_tensors

DATA = Path(__file__).parents[2] / "data"
WHOLE = Path(__file__).parents[4] / "shared" / "oracle"
RECIPES: dict[str, dict[str, Any]] = json.loads((DATA / "oracle.json").read_text())

BF16 = [name for name in RECIPES if name.endswith("bf16")]
CRUMBS = [name for name in RECIPES if name.startswith("breadcrumbs")]
EXACT = [name for name in RECIPES if name not in BF16 and not RECIPES[name]["random"]]

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


def ours(name: str, *, parents: torch.dtype = torch.float32) -> Tensors:
    """Merge by a recipe, in float32, from parents rounded to a dtype."""
    recipe = RECIPES[name]
    method = get_method(recipe["method"])
    base = recipe["base"] if method.base != "none" else None
    sources = [item for item in recipe["sources"] if item["parent"] != base]
    knobs = check_knobs(
        method, [item["knobs"] for item in sources], recipe["knobs"], has_base=base is not None
    )
    result = {}
    for tensor in model(name):
        noise = [Noise(0, item["parent"], tensor) for item in sources]
        merge = on_tensors(method.prepare)(
            [model(item["parent"])[tensor].to(parents) for item in sources],
            model(base)[tensor].to(parents) if base else None,
            noise,
            reuse=False,
        )
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


@pytest.mark.parametrize("name", CRUMBS)
def test_breadcrumbs_keep_their_share_of_small_tensors(name: str) -> None:
    merged = ours(name)
    norm = "model.norm.weight"
    base = model("base")[norm]
    largest = torch.stack([model(f"ft{i}")[norm] - base for i in (1, 2, 3)]).abs().max()
    change = merged[norm] - base
    assert (change != 0).float().mean() >= 0.8
    assert change.abs().max() < 1.3 * largest


@pytest.mark.parametrize("name", [name for name in BF16 if name != "linear_f32_out_bf16"])
def test_bf16_parents_merge_nearer_to_the_exact_result_than_mergekit(name: str) -> None:
    rounded = ours(name, parents=torch.bfloat16)
    recipe = RECIPES[name]
    exact = {"linear": "linear_norm_true", "slerp": "slerp_t0.3", "ties": "ties"}
    truth = model(exact[recipe["method"]])
    mine = theirs = 0.0
    for tensor, expected in truth.items():
        mine += float((rounded[tensor].bfloat16().float() - expected).square().sum())
        theirs += float((model(name)[tensor].float() - expected).square().sum())
    assert mine <= 1.02 * theirs


def test_dare_keeps_density_and_divides_by_it() -> None:
    base, parent = torch.zeros(1 << 18), torch.full((1 << 18,), 0.25)
    merge = on_tensors(get_method("dare_linear").prepare)(
        [parent], base, [Noise(0, "parent", "tensor")], reuse=False
    )
    knobs = check_knobs(get_method("dare_linear"), [{"density": 0.3}], {}, has_base=True)
    out = torch.empty_like(base)
    merge(*knobs, out)
    kept = out != 0
    assert abs(float(kept.float().mean()) - 0.3) < 0.004
    torch.testing.assert_close(out[kept], torch.full_like(out[kept], 0.25 / 0.3), rtol=1e-4, atol=0)


def test_della_keeps_large_changes_of_a_row_more_often() -> None:
    rows, width = 4096, 64
    ladder = torch.arange(1, width + 1) / width
    scale = torch.linspace(0.01, 1, rows)[:, None]
    parent = ladder * scale
    method = get_method("della_linear")
    merge = on_tensors(method.prepare)(
        [parent], torch.zeros_like(parent), [Noise(0, "parent", "tensor")], reuse=False
    )
    out = torch.empty_like(parent)
    merge(*check_knobs(method, [{"density": 0.5, "epsilon": 0.2}], {}, has_base=True), out)
    chances = (out != 0).float().mean(0)
    expected = torch.linspace(0.3, 0.7, width)
    assert float((chances - expected).abs().max()) < 4 * (0.25 / rows) ** 0.5
    norms = out.abs().sum(1).mean() / parent.abs().sum(1).mean()
    assert abs(float(norms) - 1) < 0.01
