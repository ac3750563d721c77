"""mergekit files read as recipes: the value of each tensor, and files that are refused."""

import re
from pathlib import Path
from typing import Any

import pytest
import seeing
import tiny
import torch
import yaml
from safetensors.torch import load_file

from evomerge.errors import RecipeError
from evomerge.export.checkpoint import merge_recipe
from evomerge.mergekit import from_mergekit, mergekit_parents
from evomerge.merging.tensors.plan import Planner
from evomerge.merging.writer import write_model
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe import Recipe, knob_at

STACK = "model.layers"


def read(text: str, parents: dict[str, Checkpoint]) -> Recipe:
    return from_mergekit(text, {name: parents[name] for name in mergekit_parents(text)})


def weights(recipe: Recipe, rest: str = "mlp.up_proj.weight", knob: str = "weight") -> list[float]:
    """The first source's knob for one tensor of every block."""
    return [
        knob_at(layer.sources[0].knobs[knob], f"{STACK}.{i}.{rest}")
        for i, layer in enumerate(recipe.layers[STACK])
    ]


def test_the_nearest_level_applies_and_without_a_match_the_next_one(llamas: Any) -> None:
    recipe = read(
        """
        merge_method: linear
        parameters: {weight: 5, normalize: false}
        slices:
        - sources:
          - {model: a, layer_range: [0, 1], parameters: {weight: 1}}
          - {model: b, layer_range: [0, 1]}
          parameters: {weight: 2}
        - sources: [{model: a, layer_range: [1, 2]}, {model: b, layer_range: [1, 2]}]
          parameters: {weight: [{filter: mlp, value: 3}]}
        - sources:
          - {model: a, layer_range: [2, 3], parameters: {weight: [{filter: self_attn, value: 7}]}}
          - {model: b, layer_range: [2, 3]}
          parameters: {weight: [{filter: mlp, value: 3}]}
        """,
        llamas,
    )
    assert weights(recipe, "mlp.up_proj.weight") == [1, 3, 3]
    assert weights(recipe, "self_attn.q_proj.weight") == [1, 5, 7]
    assert weights(recipe, "input_layernorm.weight") == [1, 5, 5]
    assert recipe.layers[STACK][0].sources[1].knobs["weight"] == 2
    assert recipe.head.sources[0].knobs["weight"] == 5
    assert recipe.layers[STACK][0].knobs == {"normalize": 0.0}


GOOD = {
    "merge_method": "ties",
    "base_model": "a",
    "models": [{"model": "b", "parameters": {"weight": 1, "density": 0.5}}],
}


def cases(text: str) -> list[tuple[dict[str, Any], str]]:
    """Return (keys that differ from `GOOD`, words of the message) of each `keys -> words`."""
    rows = [row.split(" -> ") for row in text.strip().replace("\n    ->", " ->").splitlines()]
    return [(yaml.safe_load(f"{{{keys}}}"), words) for keys, words in rows]


DOUBTS = r"""
densty: 1 -> Key 'densty' is ignored, as in mergekit; remove
merge_methd: ties -> Did you mean 'merge_method'
density: 0.5 -> Key 'density' .* move it to `parameters`
parameters: {scale: 1} -> `parameters.scale` is ignored
models: [{model: b, parameters: {lambda: 1}}]
    -> `models.0..parameters.lambda` is ignored.* merge as a whole
models: [{model: b, revision: v2}] -> Key 'revision' in `models.0.`
models: [{model: a, parameters: {weight: 1}}, {model: b}]
    -> `models.0..parameters` .weight. is ignored.* 'a' is the base model
merge_method: task_arithmetic
    -> `models.0..parameters.density` is ignored.* always 1 in task_arithmetic
tokenizer: {sorce: union} -> Key 'sorce' in `tokenizer` .* Did you mean 'source'
models: null, slices: [{sources: [{model: b, layer_range: [1, 3]}], residual_weight: 1}]
    -> Key 'residual_weight'
models: [{model: b}, {model: b}] -> names 'b' twice, and it is merged once
models: null, slices: [{sources: [{model: b}]}]
    -> `slices.0..sources.0..layer_range` is missing, so all blocks are taken
models: [{model: a}] -> `models` has only the base model, 'a', which stays
models: null, slices: [{sources: [{model: b, layer_range: [1, 3]}]}]
    -> its blocks \[1, 3\] are taken
merge_method: slerp, parameters: {t: 0.2}, base_model: null, models: [{model: b}, {model: a}]
    -> `base_model` is missing, so slerp starts .* from the first model of `models`, 'b'
merge_method: slerp, parameters: {t: 0.2}, base_model: c, models: [{model: b}, {model: a}]
    -> `base_model` 'c' is not listed in .* only gives config .* the first model there, 'b'
"""
SLERP = {"merge_method": "slerp", "parameters": {"t": 0.2}}
MODELS = [{"model": "b"}, {"model": "a"}]


@pytest.mark.parametrize(("change", "doubt"), cases(DOUBTS))
def test_what_mergekit_ignores_is_a_warning(change, doubt, llamas):
    data = {key: value for key, value in {**GOOD, **change}.items() if value is not None}
    text = yaml.safe_dump(data, sort_keys=False)
    parents = {name: llamas[name] for name in mergekit_parents(text)}
    doubts: list[str] = []
    recipe = from_mergekit(text, parents, doubts)
    list(Planner(llamas, recipe.host).plan(recipe))
    assert [note for note in doubts if re.search(doubt, note)]


def test_slerp_has_the_base_as_first_model_even_if_it_is_not_listed(llamas: Any) -> None:
    doubts: list[str] = []
    one = from_mergekit(
        "merge_method: slerp\nbase_model: c\nmodels: [{model: a}]\nparameters: {t: 0.2}",
        {name: llamas[name] for name in "ca"},
        doubts,
    )
    assert not doubts
    assert [source.parent for source in one.embeddings.sources] == ["c", "a"]
    outside = read(yaml.safe_dump({**GOOD, **SLERP, "base_model": "c", "models": MODELS}), llamas)
    assert [source.parent for source in outside.embeddings.sources] == ["b", "a"]
    assert outside.host == "c"


def test_a_base_outside_of_karchers_models_is_merged_as_in_mergekit(llamas: Any) -> None:
    text = "merge_method: karcher\nbase_model: c\nmodels: [{model: a}, {model: b}]\n"
    recipe = read(text + "parameters: {max_iter: 20000, tol: 1e-9}", llamas)
    assert [source.parent for source in recipe.embeddings.sources] == ["a", "b", "c"]
    assert recipe.embeddings.knobs == {"max_iter": 20000, "tol": 1e-9}


@pytest.mark.parametrize("models", [[{"model": "b"}], [{"model": "b"}, {"model": "c"}]])
def test_task_vectors_without_any_weight_count_alike(models: Any, llamas: Any) -> None:
    recipe = read(yaml.safe_dump({**GOOD, "models": models}), llamas)
    assert [dict(source.knobs) for source in recipe.embeddings.sources] == [{}] * len(models)


@pytest.mark.parametrize("value", ["1e-1", "'1e-1'", "'0.1'", "['0.1', 1e-1]"])
def test_numbers_that_yaml_1_1_reads_as_text_are_numbers(value: str, llamas: Any) -> None:
    text = f"merge_method: linear\nmodels: [{{model: a}}]\nparameters: {{weight: {value}}}"
    assert weights(read(text, llamas)) == [0.1] * 3


def test_two_vision_models_are_merged_whole(tmp_path: Path) -> None:
    parents = {name: seeing.make(tmp_path / name, "llava", seed) for seed, name in enumerate("ab")}
    text = """
        merge_method: linear
        models:
        - {model: a, parameters: {weight: [{filter: vision_tower, value: [1, 0]}, {value: 1}]}}
        - {model: b, parameters: {weight: [{filter: vision_tower, value: [0, 1]}, {value: 3}]}}
        dtype: float32
        """
    doubts: list[str] = []
    recipe = from_mergekit(text, parents, doubts)
    assert doubts == []
    write_model(recipe, parents, tmp_path / "out")
    folders = [tmp_path / name for name in ("a", "b", "out")]
    one, two, merged = (load_file(folder / "model.safetensors") for folder in folders)
    for name, tensor in merged.items():
        share = 0.75
        if name.startswith("vision_tower"):  # the gradient runs over its two blocks
            share = float("encoder.layers.1." in name)
        torch.testing.assert_close(tensor, one[name] * (1 - share) + two[name] * share)


def test_a_tower_that_one_model_lacks_is_the_hosts_and_a_warning_says_so(tmp_path: Path) -> None:
    families = {"a": "llava", "b": "llava", "text": "llava/text"}
    parents = {name: seeing.make(tmp_path / name, it) for name, it in families.items()}
    doubts: list[str] = []
    models = "[{model: a}, {model: b}, {model: text}]"
    text = f"{{merge_method: linear, parameters: {{weight: 1}}, models: {models}}}"
    recipe = from_mergekit(text, parents, doubts)
    assert recipe.modalities == {}
    assert list(recipe.layers) == ["language_model.model.layers"]
    words = "The {} tensors of the merge are those of 'a'"
    assert [note.split(",")[0] for note in doubts] == [
        words.format(modality) for modality in ("vision", "projector")
    ]


def test_an_encoder_decoder_is_merged_whole_or_by_module(tmp_path: Path) -> None:
    parents = {
        name: Checkpoint.open(tiny.make(tmp_path / name, "t5", seed=seed), name)
        for seed, name in enumerate("ab")
    }
    models = "[{model: a, parameters: {weight: %s}}, {model: b, parameters: {weight: 1}}]"
    whole = from_mergekit(f"merge_method: linear\nmodels: {models % 1}", parents)
    assert sorted(whole.layers) == ["decoder.block", "encoder.block"]
    plans = list(Planner(parents, whole.host).plan(whole))
    assert len(plans) == len(parents["a"].tensors)
    parts = f"{{encoder: {{models: {models % 0}}}, decoder: {{models: {models % 2}}}}}"
    split = from_mergekit(f"merge_method: linear\nmodules: {parts}", parents)
    assert split.layers["encoder.block"][0].sources[0].knobs["weight"] == 0
    assert split.layers["decoder.block"][0].sources[0].knobs["weight"] == 2
    slices = "[{sources: [{model: a, layer_range: [0, 1]}]}]"
    with pytest.raises(RecipeError, match=r"block stacks .*give each under `modules`"):
        from_mergekit(f"merge_method: passthrough\nslices: {slices}", parents)


def test_strict_says_all_that_mergekit_ignores(tmp_path: Path) -> None:
    file = tmp_path / "one.yml"
    data = {"merge_method": "linear", "models": [{"model": "zoo:base"}]}
    data["parameters"] = {"weight": 1}
    file.write_text(yaml.safe_dump(data | {f"note{i}": "mine" for i in range(5)}))
    words = r"`--strict` allows no warnings.* has 5: Key 'note0' .*Key 'note4' .*; remove it\.$"
    with pytest.raises(RecipeError, match=words):
        merge_recipe(file, tmp_path / "out", "8GB", "5GB", strict=True)
    assert not (tmp_path / "out").exists()
