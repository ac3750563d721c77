"""Checks one architecture: makes two models, merges and stacks them, compares the results."""

from __future__ import annotations

import copy
import json
import resource
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers.utils import logging

from evomerge.errors import EvomergeError
from evomerge.export.recipe import merge_recipe
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe import Layer, Recipe, Source
from scripts.architectures.configs import class_name, small_config

WEIGHTS = {"a": 0.3, "b": 0.7}
MEMORY = 5 << 30

POSITION_KEYS = {"layer_idx", "layer_id", "block_idx", "layer_index", "config"}
"""What a module knows about its model and its place in it."""

Verdict = tuple[str, str]


def check(kind: str, folder: Path) -> dict[str, Verdict]:
    """Return a verdict and a reason for each of `JUDGES`, or for `model` if none is made.

    The verdicts are `right`, `wrong`, `refused` (with evomerge's sentence) and `position`: a stack
    has the right weights, and its blocks compute something else at another position. For a model
    that cannot be made it is `left out`.
    """
    warnings.simplefilter("ignore")
    logging.set_verbosity(50)
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    try:
        if not (folder / "b" / "config.json").is_file():
            _make(kind, folder)
    except Exception as error:
        shutil.rmtree(folder, ignore_errors=True)
        return {"model": ("left out", _line(error))}
    return {name: _verdict(judge, kind, folder) for name, judge in JUDGES.items()}


def _verdict(judge: Callable[[str, Path], Verdict], kind: str, folder: Path) -> Verdict:
    try:
        return judge(kind, folder)
    except EvomergeError as error:
        return "refused", _line(error)
    except Exception as error:
        return "wrong", _line(error)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _make(kind: str, folder: Path) -> None:
    torch.manual_seed(0)
    one = getattr(transformers, class_name(kind))(small_config(kind)).float().eval()
    with torch.no_grad():
        for weight in one.parameters():
            weight.add_(torch.randn_like(weight) * 0.02)
        two = copy.deepcopy(one)
        for weight in two.parameters():
            scale = weight.std(unbiased=False).clamp_min(0.01)
            weight.add_(torch.randn_like(weight) * 0.05 * scale)
    one.save_pretrained(folder / "a")
    two.save_pretrained(folder / "b")


def _load(kind: str, folder: Path) -> tuple[nn.Module, str]:
    """Return a loaded model, and what transformers has to say about its weights."""
    model, told = getattr(transformers, class_name(kind)).from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    keys = ("missing_keys", "unexpected_keys", "mismatched_keys")
    return model.eval(), " ".join(f"{key} {sorted(told[key])[:2]}" for key in keys if told[key])


def _built(recipe: str, folder: Path, name: str) -> Path:
    file, out = folder / f"{name}.yaml", folder / name
    file.write_text(recipe)
    shutil.rmtree(out, ignore_errors=True)
    merge_recipe(file, out, "4GB", "5GB")
    return out


def _merge(kind: str, folder: Path) -> Verdict:
    """Judge the average of the two models."""
    models = [
        {"model": str(folder / name), "parameters": {"weight": weight}}
        for name, weight in WEIGHTS.items()
    ]
    content = {"merge_method": "linear", "dtype": "float32", "models": models}
    merged, told = _load(kind, _built(json.dumps(content), folder, "merge"))
    one, two = (dict(_load(kind, folder / name)[0].named_parameters()) for name in WEIGHTS)
    for name, weight in merged.named_parameters():
        wanted = one[name] * WEIGHTS["a"] + two[name] * WEIGHTS["b"]
        if not torch.allclose(weight, wanted, rtol=1e-5, atol=1e-6):
            return "wrong", f"{told} {name} is no average"
    return "wrong" if told else "right", told


def _stack(kind: str, folder: Path) -> Verdict:
    """Judge a stack of two blocks of one model and all blocks of the other."""
    depth = len(Checkpoint.open(folder / "a", "a").decoder_stack)
    path = [("a", 0), ("a", 1), *(("b", i) for i in range(depth))]
    return _judge_path(kind, folder, path, "stack")


def _reverse(kind: str, folder: Path) -> Verdict:
    """Judge a model that has the blocks of one model in reverse order, the first of them twice."""
    depth = len(Checkpoint.open(folder / "a", "a").decoder_stack)
    path = [("b", i) for i in (*reversed(range(depth)), 0)]
    return _judge_path(kind, folder, path, "reverse")


def _judge_path(kind: str, folder: Path, path: list[tuple[str, int]], what: str) -> Verdict:
    names = {name: str(folder / name) for name in WEIGHTS}
    host = Checkpoint.open(folder / "a", names["a"])
    recipe = Recipe(
        host=names["a"],
        layers={
            host.decoder_stack.prefix: tuple(
                Layer("passthrough", (Source(names[name], i),)) for name, i in path
            )
        },
        embeddings=Layer("passthrough", (Source(names["a"]),)),
        head=Layer("passthrough", (Source(names["b"]),)),
        dtype="float32",
    )
    stacked, told = _load(kind, _built(recipe.to_yaml(), folder, what))
    if told:
        return "wrong", told
    parents = {name: _load(kind, folder / name)[0] for name in WEIGHTS}
    by_hand, inside = _stacked_by_hand(stacked, parents, path, host.decoder_stack.prefix)
    for name, weight in stacked.named_parameters():
        own = [by_hand] if name.startswith(f"{inside}.") else parents.values()
        if not any(torch.equal(weight, model.get_parameter(name)) for model in own):
            return "wrong", f"{name} is not the parent's"
    try:
        _logits(parents["a"])
    except Exception as error:
        return "right", f"not run, since its parents do not run: {_line(error)[:80]}"
    one, two = map(_logits, (stacked, by_hand))
    difference = float((one - two).abs().max())
    if not difference < 1e-5:
        return "position", f"logits differ by {difference:.1e} from those by hand"
    return "right", ""


def _stacked_by_hand(
    stacked: nn.Module, parents: dict[str, Any], path: list[tuple[str, int]], prefix: str
) -> tuple[Any, str]:
    """Return a model with copies of the parents' own block modules, and the name of its stack."""
    result = copy.deepcopy(stacked)
    name = next(
        name
        for name, module in stacked.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) == len(path)
        and name.rpartition(".")[2] == prefix.rpartition(".")[2]
        and ("decoder" in name or "decoder" not in prefix)
    )
    blocks = result.get_submodule(name)
    for position, (parent, index) in enumerate(path):
        own_blocks = parents[parent].get_submodule(name)
        block = copy.deepcopy(own_blocks[index])
        for inner, module in blocks[position].named_modules():
            if inner.endswith("relative_attention_bias"):
                _set_bias(block, own_blocks, inner)
            own = block.get_submodule(inner)
            for key in POSITION_KEYS & set(vars(module)):
                setattr(own, key, getattr(module, key))
        blocks[position] = block
    return result, name


def _set_bias(block: Any, own_blocks: Any, name: str) -> None:
    """Give a block the relative attention bias of the first block, if all blocks use that one."""
    if name not in dict(own_blocks[1].named_modules()):
        attention, _, attribute = name.rpartition(".")
        module = block.get_submodule(attention)
        setattr(module, attribute, copy.deepcopy(own_blocks[0].get_submodule(name)))
        module.has_relative_attention_bias = True


def _logits(model: Any) -> torch.Tensor:
    ids = torch.arange(4, 20)[None]
    extra = {"decoder_input_ids": ids[:, :6]} if model.config.is_encoder_decoder else {}
    torch.manual_seed(1)
    with torch.no_grad():
        result: torch.Tensor = model(input_ids=ids, **extra).logits
    return result


JUDGES = {"merge": _merge, "stack": _stack, "reverse": _reverse}
