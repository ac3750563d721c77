"""mergekit configs, read and merged by evomerge, against the models that mergekit made of them.

The parents in `tests/data` have all blocks, but only four tensors of each. If there is a folder
`../shared/oracle` beside the repository, whole models are compared.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from fusion import undecided
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from evomerge.errors import RecipeError
from evomerge.mergekit import express, from_mergekit, mergekit_parents
from evomerge.merging.backend import write
from evomerge.merging.tensors.plan import Planner
from evomerge.merging.tokenizers.plan import plan_tokenizer
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.references import open_parent
from evomerge.recipe import Recipe

DATA = Path(__file__).parents[1] / "data"
WHOLE = Path(__file__).parents[3] / "shared" / "oracle"
FILES: dict[str, Any] = json.loads((DATA / "oracle_recipes.json").read_text())
RECIPES: dict[str, str] = FILES["recipes"]

RANDOM = {name for name in RECIPES if name.startswith(("dare", "della"))}
BF16 = {"linear_bf16", "slerp_bf16", "ties_bf16"}
TOKENS = [name for name in RECIPES if name.startswith("tok_") and name != "tok_none_mismatch"]
EXACT = [name for name in RECIPES if name not in {*RANDOM, *BF16, *TOKENS, "tok_none_mismatch"}]
ANGULAR = ("slerp", "nuslerp", "multislerp", "karcher")

Tensors = dict[str, torch.Tensor]


@cache
def stored(file: str, under: str) -> Tensors:
    with safe_open(DATA / file, "pt") as data:
        keys = [key for key in data.keys() if key.startswith(f"{under}/")]  # noqa: SIM118
        return {key.removeprefix(f"{under}/"): data.get_tensor(key) for key in keys}


def theirs(name: str) -> Tensors:
    """Return the tensors that mergekit made of a recipe, as far as they are available."""
    if WHOLE.is_dir():
        return load_file(WHOLE / "merged" / name / "model.safetensors")
    return stored("oracle_models.safetensors", f"merged/{name}") or stored(
        "oracle.safetensors", name
    )


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the parents that the recipes name."""
    if WHOLE.is_dir():
        return WHOLE
    root = tmp_path_factory.mktemp("oracle")
    like = {"ft1_added_tokens": "ft1", "ft2_permuted_tokens": "ft2"}
    for name in ("base", "ft1", "ft2", "ft3", *like):
        folder = root / "parents" / name
        folder.mkdir(parents=True)
        tensors = {
            **stored("oracle_models.safetensors", f"parents/{like.get(name, name)}"),
            **stored("oracle_models.safetensors", f"parents/{name}"),
        }
        save_file(tensors, folder / "model.safetensors")
        rows = len(tensors["lm_head.weight"])
        vocabulary = FILES["vocabularies"].get(name, FILES["vocabularies"]["base"])
        for file, content in (
            ("config.json", {**FILES["config"], "vocab_size": rows}),
            ("tokenizer.json", vocabulary),
            ("tokenizer_config.json", FILES["tokenizer_config"]),
        ):
            (folder / file).write_text(json.dumps(content))
    return root


def read(name: str, oracle: Path) -> tuple[Recipe, dict[str, Checkpoint]]:
    text = RECIPES[name].replace("./parents", str(oracle / "parents"))
    parents = {parent: open_parent(parent, oracle) for parent in mergekit_parents(text)}
    return from_mergekit(text, parents), parents


def merged(name: str, oracle: Path, tmp_path: Path) -> Tensors:
    recipe, parents = read(name, oracle)
    write(recipe, parents, tmp_path / "out")
    return load_file(tmp_path / "out" / "model.safetensors")


def common(name: str, ours: Tensors) -> list[tuple[torch.Tensor, torch.Tensor]]:
    expected = theirs(name)
    names = sorted(expected.keys() & ours.keys())
    assert len(names) >= 4
    if WHOLE.is_dir():
        assert expected.keys() == ours.keys()
    return [(ours[item], expected[item]) for item in names]


def decided(ours: Tensors, expected: Tensors, oracle: Path) -> Tensors:
    """Return what is expected where rounding decides, and our weights elsewhere."""
    base, source = (
        load_file(oracle / "parents" / parent / "model.safetensors") for parent in ("ft1", "ft2")
    )
    return {
        key: torch.where(undecided(source[key], base[key]), expected[key], ours[key])
        for key in ours.keys() & expected.keys()
    }


@pytest.mark.parametrize("name", EXACT)
def test_models_agree(name: str, oracle: Path, tmp_path: Path) -> None:
    angular = name.startswith(ANGULAR)
    made = merged(name, oracle, tmp_path)
    if name == "arcee_fusion":
        made = decided(made, theirs(name), oracle)
    for ours, expected in common(name, made):
        if name.startswith("breadcrumbs") and expected.dim() == 1:
            continue  # mergekit drops the whole change of a tensor with gamma n < 1
        assert ours.dtype == expected.dtype
        rtol = {torch.bfloat16: 2**-7}.get(ours.dtype, 1e-4 if angular else 1e-5)
        torch.testing.assert_close(ours, expected, rtol=rtol, atol=1e-7)


@pytest.mark.parametrize("name", sorted(BF16))
def test_bf16_models_are_the_float32_ones_rounded_once(
    name: str, oracle: Path, tmp_path: Path
) -> None:
    exact = {"linear_bf16": "linear_norm_true", "slerp_bf16": "slerp_t0.3", "ties_bf16": "ties"}
    ours = merged(name, oracle, tmp_path)
    for ours_once, expected in common(exact[name], ours):
        assert ours_once.dtype == torch.bfloat16
        torch.testing.assert_close(ours_once.float(), expected, rtol=2**-8, atol=1e-7)
    for rounded, coarse in common(name, ours):  # theirs was computed in bf16
        change = (rounded.float() - coarse.float()).norm() / coarse.float().norm()
        assert change < 0.05


@pytest.mark.parametrize("name", sorted(RANDOM))
def test_random_models_agree_in_distribution(name: str, oracle: Path, tmp_path: Path) -> None:
    ours = merged(name, oracle, tmp_path)
    base = load_file(oracle / "parents/base/model.safetensors")
    shared = sorted(key for key in theirs(name).keys() & ours.keys() if ours[key].dim() == 2)
    mine = torch.cat([(ours[key] - base[key]).flatten() for key in shared])
    other = torch.cat([(theirs(name)[key] - base[key]).flatten() for key in shared])
    assert not torch.equal(mine, other)
    assert mine.std() == pytest.approx(other.std().item(), rel=0.05)
    assert mine.abs().mean() == pytest.approx(other.abs().mean().item(), rel=0.05)
    unchanged = (mine == 0).float().mean(), (other == 0).float().mean()
    assert unchanged[0] == pytest.approx(unchanged[1].item(), abs=0.02)


@pytest.mark.parametrize("name", TOKENS)
def test_tokens_have_the_rows_mergekit_gives_them(name: str, oracle: Path, tmp_path: Path) -> None:
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


def test_vocabularies_of_two_sizes_are_refused_without_a_tokenizer(
    oracle: Path, tmp_path: Path
) -> None:
    # mergekit 0.1.4 truncated the larger vocabulary without a message.
    recipe, parents = read("tok_none_mismatch", oracle)
    with pytest.raises(RecipeError, match="tokenizer: union"):
        write(recipe, parents, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_files_written_back_mean_the_same(name: str, oracle: Path) -> None:
    recipe, parents = read(name, oracle)
    again = from_mergekit(express(recipe, parents), parents)
    assert effect(again, parents) == effect(recipe, parents)


def effect(recipe: Recipe, parents: dict[str, Checkpoint]) -> Any:
    """Return the content of a recipe with the defaults of all knobs, for comparison."""
    if recipe.tokenizer == "base" and len({p.vocabulary for p in parents.values()}) > 1:
        return recipe
    rows = plan_tokenizer(recipe, parents).rows
    plans = list(Planner(parents, recipe.host).plan(recipe, rows))
    return plans, rows and (rows.index, rows.filling, rows.size)
