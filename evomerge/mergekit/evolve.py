"""A mergekit-evolve config becomes a search file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from evomerge.errors import RecipeError, did_you_mean
from evomerge.merge.methods import get_method
from evomerge.mergekit.file import check_keys, load_yaml
from evomerge.models.references import read_config

_GENOME = (
    "models",
    "merge_method",
    "base_model",
    "tokenizer_source",
    "layer_granularity",
    "normalize",
    "allow_negative_weights",
    "smooth",
    "filters",
)
_TOP = ("genome", "tasks", "limit", "num_fewshot", "shuffle", "random_init", "apply_chat_template")
_COMPONENTS = {
    "attention": ("self_attn", "attn", "attention", "self_attention"),
    "mlp": ("mlp", "feed_forward", "ffn"),
    "norm": ("norm", "layernorm"),
}
_CANDIDATES = 100  # what mergekit-evolve does unless --max-fevals says otherwise


def convert(text: str, count_layers: Callable[[str], int]) -> str:
    """Return the search file (YAML with comments) that stands for a mergekit-evolve config.

    Args:
        text: the config.
        count_layers: returns the number of blocks of a model; asked where the config has a
            `layer_granularity`, because a search file counts groups.

    Raises:
        RecipeError: something cannot be honoured; the message names the key.
    """
    data = load_yaml(text, "The mergekit-evolve config")
    check_keys(data, _TOP, "the mergekit-evolve config")
    genome = data.get("genome")
    if genome is None:
        raise RecipeError("The key `genome` is missing; is this a mergekit-evolve config?")
    check_keys(genome, _GENOME, "`genome`")
    models = genome.get("models")
    if not isinstance(models, list) or not all(isinstance(m, str) for m in models) or not models:
        raise RecipeError("`genome.models` must be a list of models.")
    for key in ("shuffle", "random_init"):
        if data.get(key):
            raise RecipeError(
                f"`{key}` is set, which a search file cannot say; remove it (documents are drawn "
                "by `seed`, and a search starts from `knobs`)."
            )
    base = genome.get("base_model")
    search: dict[str, Any] = {"seed": 0, "parents": models}
    if base:
        search["base"] = base
    source = genome.get("tokenizer_source")
    if source:
        search["tokenizer"] = (base or models[0]) if source == "base" else source
    search["space"] = _space(genome, models, count_layers)
    search["optimizer"] = {"name": "cma"}
    search["objectives"], notes = _objectives(data.get("tasks"))
    search["evaluation"] = _evaluation(data)
    search["budget"] = {"candidates": _CANDIDATES}
    body = yaml.safe_dump(search, sort_keys=False, default_flow_style=None, width=100)
    head = [
        "# From a mergekit-evolve config. Its command line's options are here: --max-fevals is",
        "# budget.candidates, --sigma0 optimizer.sigma, --task-search-path evaluation.include.",
        "# Weights are searched in the range of space.knobs; mergekit-evolve sets no bounds.",
        *notes,
    ]
    return "\n".join([*head, body])


def convert_file(file: Path) -> str:
    """Return the search file for a mergekit-evolve config on disk.

    Paths in it start from the working folder, as mergekit's do. Of a model on the Hub only the
    config is fetched.

    Raises:
        InputError: the file cannot be read or honoured, or a model's config cannot be had.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{file} cannot be read: {error}.") from None

    def count_layers(model: str) -> int:
        config = read_config(model, Path.cwd())
        for section in (config, *(v for v in config.values() if isinstance(v, dict))):
            for key in ("num_hidden_layers", "n_layer", "num_layers"):
                if isinstance(section.get(key), int):
                    return int(section[key])
        raise RecipeError(
            f"`genome.layer_granularity`: the config of {model!r} does not say how many layers it "
            "has; remove the key and set space.groups in the search file."
        )

    return convert(text, count_layers)


def _space(
    genome: Mapping[str, Any], models: list[str], count_layers: Callable[[str], int]
) -> dict[str, Any]:
    name = genome.get("merge_method")
    if not isinstance(name, str):
        raise RecipeError("`genome.merge_method` is missing; it must name a merge method.")
    method = get_method(name)
    space: dict[str, Any] = {"kind": "parameters", "method": method.name}
    granularity = genome.get("layer_granularity")
    if granularity:
        layers = count_layers(str(genome.get("base_model") or models[0]))
        if type(granularity) is not int or granularity < 1 or layers % granularity:
            raise RecipeError(
                f"`genome.layer_granularity` is {granularity!r}; it must divide the number of "
                f"layers, {layers}."
            )
        space["groups"] = layers // granularity
    filters = genome.get("filters") or []
    if not isinstance(filters, list):
        raise RecipeError(f"`genome.filters` is {filters!r}; it must be a list.")
    if filters:
        space["components"] = [_component(item) for item in filters]
    if genome.get("smooth"):
        space["smooth"] = True
    known = {knob.name for knob in method.knobs}
    knobs: dict[str, Any] = {}
    if "weight" in known:
        knobs["weight"] = [-1.0 if genome.get("allow_negative_weights") else 0.0, 1.0]
    if genome.get("normalize") is not None:
        if "normalize" not in known:
            raise RecipeError(f"`genome.normalize`: {method.name} has no such parameter.")
        knobs["normalize"] = int(bool(genome["normalize"]))
    return {**space, "knobs": knobs} if knobs else space


def _component(item: Any) -> str:
    for component, words in _COMPONENTS.items():
        if item == component or item in words:
            return component
    known = [word for every in _COMPONENTS.values() for word in every]
    raise RecipeError(
        f"`genome.filters` names {item!r}; a search file knows attention, mlp and norm "
        f"({', '.join(known)}).{did_you_mean(str(item), known)}"
    )


def _objectives(tasks: Any) -> tuple[list[dict[str, Any]], list[str]]:
    if not isinstance(tasks, list) or not tasks:
        raise RecipeError("`tasks` must be a list with at least one task.")
    found: list[dict[str, Any]] = []
    notes: list[str] = []
    for i, task in enumerate(tasks):
        check_keys(task, ("name", "weight", "metric"), f"`tasks[{i}]`")
        weight = task.get("weight", 1.0)
        if "name" not in task or not isinstance(weight, (int, float)) or weight == 0:
            raise RecipeError(f"`tasks[{i}]` needs a name, and a weight that is a number but 0.")
        metric = str(task.get("metric", "acc,none")).removesuffix(",none")
        found.append({"task": task["name"], "metric": metric, "weight": abs(float(weight))})
        if weight < 0:
            notes.append(
                f"# {task['name']} had the weight {weight}: metrics where lower is better are "
                "turned round by themselves."
            )
    return found, notes


def _evaluation(data: Mapping[str, Any]) -> dict[str, Any]:
    evaluation: dict[str, Any] = {"include": []}
    limit = data.get("limit")
    if limit is not None:
        if type(limit) is not int or limit < 1:
            raise RecipeError(f"`limit` is {limit!r}; it must be a number of documents above 0.")
        evaluation["search"] = {"documents": limit}
    if data.get("num_fewshot") is not None:
        evaluation["fewshot"] = data["num_fewshot"]
    if data.get("apply_chat_template"):
        evaluation["chat_template"] = True
    return evaluation
