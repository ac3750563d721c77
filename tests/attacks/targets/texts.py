"""Files that people write: search files, recipes, mergekit's files."""

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lm_eval.tasks
import tiny
from attacks.targets.runs import said
from attacks.targets.target import Read, near_yaml
from lm_tasks import only

from evomerge.recipe import Recipe

SEARCH: dict[str, Any] = {
    "seed": 1, "parents": ["./a", "./b"], "base": None, "dtype": "float32", "tokenizer": "base",
    "space": {
        "kind": "parameters", "method": ["linear", "slerp"], "groups": 2,
        "components": ["attention"], "knobs": {"weight": [0.0, 1.0], "t": 0.5},
    },
    "optimizer": {"name": "cma", "population": "auto"},
    "objectives": [{"task": "zoo_maths", "metric": "exact_match", "weight": 1.0}],
    "evaluation": {
        "include": ["zoo:tasks"], "test": {"documents": 4},
        "search": {"documents": 4, "task_split": {"zoo_maths": "test"}},
        "validation": {"documents": 4, "finalists": 1},
    },
    "budget": {"candidates": 22, "hours": 1.5}, "executor": {"kind": "inline"},
}  # fmt: skip
_SOURCES = [{"parent": "a", "knobs": {"weight": 0.5}}, {"parent": "b", "knobs": {"weight": 1.0}}]
_BLOCK = {
    "method": "task_arithmetic", "base": {"parent": "b", "layer": 0}, "knobs": {"lambda": 1.0},
    "sources": [{"parent": "a", "layer": 1, "knobs": {"weight": [["mlp", 0.5], ["*", 1.0]]}}],
    "scale": 1.5,
}  # fmt: skip
RECIPE: dict[str, Any] = {
    "host": "a", "layers": {"model.layers": [_BLOCK, _BLOCK]},
    "embeddings": {"method": "linear", "sources": _SOURCES},
    "head": {"method": "linear", "sources": _SOURCES, "knobs": {"normalize": 1.0}},
    "dtype": "float32", "tokenizer": "union", "seed": 3, "vocabulary": ["a", "b"],
    "options": {"chat_template": "chatml", "pad_to_multiple_of": "8", "tokens": "{}"},
}  # fmt: skip
_GRADIENT = {"weight": [{"filter": "mlp", "value": [0, 1]}, {"value": 0.5}]}
_TOKEN = {"kind": "model_token", "model": "a", "token": "w2"}
MODELS: dict[str, Any] = {
    "merge_method": "dare_ties", "base_model": "a", "dtype": "float32", "out_dtype": "bfloat16",
    "models": [{"model": "a"}, {"model": "b", "parameters": _GRADIENT}], "chat_template": "auto",
    "parameters": {"density": 0.5, "normalize": True},
    "tokenizer": {
        "source": "union", "pad_to_multiple_of": 8,
        "tokens": {"w1": {"source": _TOKEN, "force": True}},
    },
}  # fmt: skip
_SLICE = {"model": "a", "layer_range": [0, 2], "parameters": {"scale": [1, 2]}}
_SLICED = [
    {"sources": [_SLICE], "base_model": "a", "parameters": {"scale": 1}},
    {"sources": [{"model": "b", "layer_range": [1, 3]}]},
]
SLICES: dict[str, Any] = {
    "merge_method": "passthrough", "tokenizer_source": "base",
    "modules": {"default": {"slices": _SLICED, "parameters": {"scale": 1}}},
}  # fmt: skip
FEW_TASKS = only("gsm8k")


def two_models(folder: Path) -> Path:
    for seed, name in enumerate("ab"):
        tiny.make(folder / name, "llama", seed=seed)
    return folder


def text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def validated(name: str) -> Any:
    """Return the reader of a search file, or of a file of one of its parents, by `validate`."""

    def reader(folder: Path) -> Read:
        two_models(folder)
        (folder / "search.yaml").write_text(json.dumps(SEARCH))

        def read(data: bytes) -> Any:
            (folder / name).write_bytes(data)
            # A task that no folder of `evaluation.include` has may be one of lm-eval's own.
            with patch.object(lm_eval.tasks, "TaskManager", FEW_TASKS), contextlib.chdir(folder):
                return said("validate", "search.yaml")

        return read

    return reader


def recipes(_: Path) -> Read:
    """A recipe, which is the same after it was written and read again."""

    def read(data: bytes) -> Recipe:
        recipe = Recipe.from_yaml(text(data))
        assert Recipe.from_yaml(recipe.to_yaml()) == recipe
        assert recipe.digest and recipe.host in recipe.parents
        return recipe

    return read


def merges(folder: Path) -> Read:
    """A recipe or a mergekit file whose model is made."""
    two_models(folder)

    def read(data: bytes) -> Any:
        (folder / "recipe.yaml").write_bytes(data)
        try:
            with contextlib.chdir(folder):
                return said("merge", "recipe.yaml", "--out", folder / "out")
        finally:
            shutil.rmtree(folder / "out", ignore_errors=True)

    return read


TEXTS = {
    "search": near_yaml(validated("search.yaml"), SEARCH),
    "recipe": near_yaml(recipes, RECIPE),
    "merge": near_yaml(merges, RECIPE, MODELS, SLICES),
}
