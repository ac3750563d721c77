"""Recipes, ours and mergekit's: a value or a sentence, and no code."""

import json

import pytest
import tiny
from hypothesis import given, settings
from mutations import FUZZ, value_or_error, yaml_files

from evomerge.errors import CandidateError
from evomerge.export.recipe import merge_recipe
from evomerge.mergekit import from_mergekit, mergekit_parents
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe import Recipe

_SOURCES = [{"parent": "a", "knobs": {"weight": 0.5}}, {"parent": "b", "knobs": {"weight": 1.0}}]
RECIPE = {
    "host": "a",
    "layers": {
        "model.layers": [
            {
                "method": "task_arithmetic",
                "sources": [
                    {"parent": "a", "layer": i, "knobs": {"weight": [["mlp", 0.5], ["*", 1.0]]}},
                    {"parent": "b", "layer": i, "knobs": {"weight": 0.25}},
                ],
                "base": {"parent": "b", "layer": i},
                "knobs": {"lambda": 1.0},
                "scale": 1.5,
            }
            for i in range(2)
        ]
    },
    "embeddings": {"method": "linear", "sources": _SOURCES},
    "head": {"method": "linear", "sources": _SOURCES, "knobs": {"normalize": 1.0}},
    "dtype": "float32",
    "tokenizer": "union",
    "seed": 3,
    "options": {"chat_template": "chatml", "pad_to_multiple_of": "8", "tokens": "{}"},
    "vocabulary": ["a", "b"],
}
MODELS = {
    "merge_method": "dare_ties",
    "base_model": "a",
    "models": [
        {"model": "a"},
        {
            "model": "b",
            "parameters": {"weight": [{"filter": "mlp", "value": [0, 1]}, {"value": 0.5}]},
        },
    ],
    "parameters": {"density": 0.5, "normalize": True},
    "dtype": "float32",
    "out_dtype": "bfloat16",
    "chat_template": "auto",
    "tokenizer": {
        "source": "union",
        "pad_to_multiple_of": 8,
        "tokens": {
            "w1": {"source": {"kind": "model_token", "model": "a", "token": "w2"}, "force": True}
        },
    },
}
SLICES = {
    "merge_method": "passthrough",
    "modules": {
        "default": {
            "slices": [
                {
                    "sources": [
                        {"model": "a", "layer_range": [0, 2], "parameters": {"scale": [1, 2]}}
                    ],
                    "base_model": "a",
                    "parameters": {"scale": 1},
                },
                {"sources": [{"model": "b", "layer_range": [1, 3]}]},
            ],
            "parameters": {"scale": 1},
        }
    },
    "tokenizer_source": "base",
}


def text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two tiny models, `a` and `b`."""
    root = tmp_path_factory.mktemp("models")
    for seed, name in enumerate("ab"):
        tiny.make(root / name, "llama", seed=seed)
    return root


@FUZZ
@given(data=yaml_files(RECIPE))
def test_recipes(data):
    recipe = value_or_error(lambda: Recipe.from_yaml(text(data)))
    if recipe is not None:
        assert Recipe.from_yaml(recipe.to_yaml()) == recipe
        assert recipe.digest
        assert recipe.host in recipe.parents


@FUZZ
@given(data=yaml_files(MODELS) | yaml_files(SLICES))
def test_mergekit_files(folder, data):
    def read():
        opened = {name: Checkpoint.open(folder / name, name) for name in "ab"}
        parents = mergekit_parents(text(data))
        return from_mergekit(text(data), {name: opened.get(name, opened["a"]) for name in parents})

    recipe = value_or_error(read)
    if recipe is not None:
        assert Recipe.from_yaml(recipe.to_yaml()) == recipe


@settings(FUZZ, max_examples=60)
@given(data=yaml_files(RECIPE) | yaml_files(MODELS))
def test_recipe_files_become_models_or_a_sentence(folder, tmp_path_factory, data):
    """What a parser lets through is honoured or refused later, without a weight out of place."""
    file = folder / "recipe.yaml"
    file.write_bytes(data)
    out = tmp_path_factory.mktemp("out") / "model"
    value_or_error(lambda: merge_recipe(file, out, "4GB", "5GB"))


def test_the_files_that_are_mutated_are_valid(folder, tmp_path):
    for number, content in enumerate((RECIPE, MODELS, SLICES)):
        (folder / "recipe.yaml").write_text(json.dumps(content))
        try:
            merge_recipe(folder / "recipe.yaml", tmp_path / str(number), "4GB", "5GB")
        except CandidateError:  # pragma: no cover - would mean weights that are not finite
            raise AssertionError("the valid file makes no model") from None
