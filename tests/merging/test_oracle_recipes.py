"""mergekit configs, read and merged by evomerge, against the models that mergekit made of them.

The parents in `tests/data` have all blocks, but only four tensors of each.
"""

import json
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from evomerge.mergekit import express, from_mergekit, mergekit_parents
from evomerge.merging.methods import get_method
from evomerge.merging.methods.method import check_knobs
from evomerge.merging.tensors.plan import Planner
from evomerge.merging.tokenizers.plan import plan_tokenizer
from evomerge.merging.writer import write_model
from evomerge.models.references import open_parent
from evomerge.testing.methods import on_tensors

DATA = Path(__file__).parents[1] / "data"
FILES = json.loads((DATA / "oracle_recipes.json").read_text())
RECIPES = FILES["recipes"]

KNOBS = json.loads((DATA / "oracle.json").read_text())  # a method and its knobs, by name

RANDOM = {name for name in RECIPES if name.startswith(("dare", "della"))}
TOKENS = [name for name in RECIPES if name.startswith("tok_") and name != "tok_none_mismatch"]
EXACT = [it for it in RECIPES if it not in RANDOM and not it.endswith("bf16") and it[:4] != "tok_"]
ANGULAR = ("slerp", "nuslerp", "multislerp", "karcher")


@cache
def stored(file, under):
    with safe_open(DATA / file, "pt") as data:
        keys = [key for key in data.keys() if key.startswith(f"{under}/")]  # noqa: SIM118
        return {key.removeprefix(f"{under}/"): data.get_tensor(key) for key in keys}


def theirs(name):
    """Return the tensors that mergekit made of a recipe, as far as they are available."""
    models = stored("oracle_models.safetensors", f"merged/{name}")
    return models or stored("oracle.safetensors", name)


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    """A folder with the parents that the recipes name."""
    root = tmp_path_factory.mktemp("oracle")
    like = {"ft1_added_tokens": "ft1", "ft2_permuted_tokens": "ft2"}
    for name in ("base", "ft1", "ft2", "ft3", *like):
        folder, known = root / "parents" / name, FILES["vocabularies"]
        folder.mkdir(parents=True)
        tensors = {}
        for other in (like.get(name, name), name):
            tensors |= stored("oracle_models.safetensors", f"parents/{other}")
        save_file(tensors, folder / "model.safetensors")
        texts = {"config": {**FILES["config"], "vocab_size": len(tensors["lm_head.weight"])}}
        texts["tokenizer"] = known.get(name, known["base"])
        texts["tokenizer_config"] = FILES["tokenizer_config"]
        for file, content in texts.items():
            (folder / f"{file}.json").write_text(json.dumps(content))
    return root


def read(name, oracle):
    text = RECIPES[name].replace("./parents", str(oracle / "parents"))
    parents = {parent: open_parent(parent, oracle) for parent in mergekit_parents(text)}
    return from_mergekit(text, parents), parents


def merged(name, oracle, tmp_path):
    recipe, parents = read(name, oracle)
    write_model(recipe, parents, tmp_path / "out")
    return load_file(tmp_path / "out" / "model.safetensors")


def common(name, ours):
    expected = theirs(name)
    names = sorted(expected.keys() & ours.keys())
    assert len(names) >= 4
    return [(item, ours[item], expected[item]) for item in names]


@pytest.mark.parametrize("name", EXACT)
def test_models_agree(name, oracle, tmp_path):
    rtol = 1e-4 if name.startswith(ANGULAR) else 1e-5
    made, (base, source) = (
        merged(name, oracle, tmp_path),
        [load_file(oracle / f"parents/{parent}/model.safetensors") for parent in ("ft1", "ft2")],
    )
    for key, ours, expected in common(name, made):
        if name.startswith("breadcrumbs") and expected.dim() == 1:
            continue  # mergekit drops the whole change of a tensor with gamma n < 1
        if name == "arcee_fusion":  # where rounding decides
            ours = torch.where(undecided(source[key], base[key]), expected, ours)
        assert ours.dtype == expected.dtype
        torch.testing.assert_close(ours, expected, rtol=rtol, atol=1e-7)


@pytest.mark.parametrize("name", sorted(RANDOM))
def test_random_models_agree_in_distribution(name, oracle, tmp_path):
    base = load_file(oracle / "parents/base/model.safetensors")
    found = common(name, merged(name, oracle, tmp_path))
    changes = [[it[i] - base[it[0]] for i in (1, 2)] for it in found if it[1].dim() == 2]
    mine, other = (
        torch.cat([item.flatten() for item in them]) for them in zip(*changes, strict=True)
    )
    assert not torch.equal(mine, other)
    assert mine.std() == pytest.approx(other.std().item(), rel=0.05)
    assert mine.abs().mean() == pytest.approx(other.abs().mean().item(), rel=0.05)
    unchanged = [(it == 0).float().mean().item() for it in (mine, other)]
    assert unchanged[0] == pytest.approx(unchanged[1], abs=0.02)


@pytest.mark.parametrize("name", TOKENS)
def test_tokens_have_the_rows_mergekit_gives_them(name, oracle, tmp_path):
    ours = merged(name, oracle, tmp_path)
    expected = theirs(name)
    tokens: list[str] = FILES["merged_vocabularies"][name]
    written = json.loads((tmp_path / "out/tokenizer.json").read_text())
    ids = {**written["model"]["vocab"]}
    ids |= {item["content"]: item["id"] for item in written["added_tokens"]}
    assert ids.keys() == set(tokens)
    config = json.loads((tmp_path / "out/config.json").read_text())
    for matrix in ("model.embed_tokens.weight", "lm_head.weight"):
        assert ours[matrix].shape == expected[matrix].shape
        assert config["vocab_size"] == len(ours[matrix])
        rows = ours[matrix][[ids[token] for token in tokens]]
        torch.testing.assert_close(rows, expected[matrix][: len(tokens)], rtol=1e-5, atol=1e-7)
        padding = ours[matrix][len(tokens) :], expected[matrix][len(tokens) :]
        torch.testing.assert_close(*padding, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_files_written_back_mean_the_same(name, oracle):
    recipe, parents = read(name, oracle)
    again = from_mergekit(express(recipe, parents), parents)
    assert effect(again, parents) == effect(recipe, parents)


def effect(recipe, parents):
    """Return the content of a recipe with the defaults of all knobs, for comparison."""
    if recipe.tokenizer == "base" and len({p.vocabulary for p in parents.values()}) > 1:
        return recipe
    rows = plan_tokenizer(recipe, parents).rows
    plans = list(Planner(parents, recipe.host, rows).plan(recipe))
    return plans, rows and (rows.index, rows.filling, rows.size)


@pytest.mark.parametrize(
    "name", [it for it in KNOBS if not (it.endswith("bf16") or KNOBS[it]["random"])]
)
def test_methods_agree_in_float32(name):
    given, model = KNOBS[name], partial(stored, "oracle.safetensors")
    method = get_method(given["method"])
    base = given["base"] if method.base != "none" else None
    sources = [item for item in given["sources"] if item["parent"] != base]
    own = [item["knobs"] for item in sources]
    knobs = check_knobs(method, own, given["knobs"], has_base=base is not None)
    for key, expected in model(name).items():
        if name.startswith("breadcrumbs") and expected.dim() == 1:
            continue  # as above
        tensors = [model(item["parent"])[key] for item in sources]
        start, out = model(base)[key] if base else None, torch.empty(expected.shape)
        on_tensors(method.prepare)(tensors, start)(*knobs, out)
        if name.startswith("arcee_fusion"):
            out = torch.where(undecided(tensors[0], start), expected, out)
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-7, msg=key)


DIVERGENCE = 16 * 2.0**-24
"""Absolute rounding of a row's divergence in float32: a sum of p log(p / q), where p adds up to 1
and each quotient of two softmaxes is near 1, so a few units in the last place of 1."""


def undecided(source: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """Return where a weight's importance is within rounding of the threshold; bool, as `source`."""
    end, start = (item.double().reshape(-1, source.shape[-1]) for item in (source, base))
    p, q = end.softmax(1) + 1e-8, start.softmax(1) + 1e-8
    apart = (end - start).abs()
    importance = (apart * (p * (p / q).log()).sum(1, keepdim=True)).flatten()
    rounding = DIVERGENCE * apart.flatten()
    last = len(importance) - 1
    ranks = [int(last * share) for share in (0.25, 0.5, 0.75)]
    low, middle, high = importance.sort().values[ranks]
    # The threshold has the rounding of the median and 1.5 times that of both quartiles.
    room = rounding + 4 * rounding.sort().values[ranks[2]]
    near = (importance - (middle + 1.5 * (high - low))).abs() <= room
    return near.reshape(source.shape)
