"""Files that say what to merge: recipes, mergekit's files, configs of other tools."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import tiny
from attacks.targets.target import Read, Target, near_yaml
from mutations import damaged, value_or_error, yaml_files

from evomerge.errors import RecipeError
from evomerge.mergekit import from_mergekit, mergekit_parents
from evomerge.models.checkpoint import Checkpoint
from evomerge.parsing.texts import json_value
from evomerge.parsing.values import Values
from evomerge.parsing.yaml import yaml_text, yaml_value
from evomerge.recipe import Recipe

_SOURCES = [{"parent": "a", "knobs": {"weight": 0.5}}, {"parent": "b", "knobs": {"weight": 1.0}}]
RECIPE: dict[str, Any] = {
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
MODELS: dict[str, Any] = {
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
SLICES: dict[str, Any] = {
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
PLAIN: dict[str, Any] = {"a": [1, 2.5, "x", None, True], "b": {"c": {"d": [[], {}]}}, "e": -0.0}


def two_models(folder: Path) -> Path:
    """Write two tiny models, `a` and `b`, into a folder."""
    for seed, name in enumerate("ab"):
        tiny.make(folder / name, "llama", seed=seed)
    return folder


def text(data: bytes) -> str:
    """Return a file's text as far as it is text."""
    return data.decode("utf-8", "surrogateescape")


def recipes(_: Path) -> Read:
    """A recipe, which is the same after it was written and read again."""

    def read(data: bytes) -> Recipe:
        recipe = Recipe.from_yaml(text(data))
        assert Recipe.from_yaml(recipe.to_yaml()) == recipe
        assert recipe.digest
        assert recipe.host in recipe.parents
        return recipe

    return read


def mergekit_files(folder: Path) -> Read:
    """A mergekit file as a recipe."""
    two_models(folder)

    def read(data: bytes) -> Recipe:
        opened = {name: Checkpoint.open(folder / name, name) for name in "ab"}
        parents = mergekit_parents(text(data))
        given = {name: opened.get(name, opened["a"]) for name in parents}
        recipe = from_mergekit(text(data), given)
        assert Recipe.from_yaml(recipe.to_yaml()) == recipe
        return recipe

    return read


def plain_values(_: Path) -> Read:
    """Any YAML and JSON, and each check of a value's type."""
    values = Values(RecipeError)
    checks = (values.mapping, values.items, values.text, values.whole, values.real, values.flag)

    def read(data: bytes) -> Any:
        value_or_error(lambda: json_value(data, "file", RecipeError))
        value = yaml_value(text(data), "file", RecipeError)
        nodes = [value, *(value.values() if isinstance(value, dict) else ())]
        for node in nodes:
            for check in checks:
                value_or_error(lambda check=check, node=node: check(node, "key"))
        again = yaml_value(yaml_text(value, width=80), "file", RecipeError)
        assert again == value or _has_nan(value)
        return (value,)

    return read


def _has_nan(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_nan, [*value, *value.values()]))
    if isinstance(value, list):
        return any(map(_has_nan, value))
    return isinstance(value, float) and math.isnan(value)


_PLAIN_TEXT = json.dumps(PLAIN).encode()
RECIPES = {
    "recipe": near_yaml(recipes, RECIPE),
    "mergekit": near_yaml(mergekit_files, MODELS, SLICES),
    "values": Target((_PLAIN_TEXT,), yaml_files(PLAIN) | damaged(_PLAIN_TEXT), plain_values),
}
