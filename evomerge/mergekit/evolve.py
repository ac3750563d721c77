"""Converting a mergekit-evolve config to a search file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from evomerge.errors import RecipeError, did_you_mean, one_line
from evomerge.merging.methods import get_method
from evomerge.models.references import read_config
from evomerge.parsing.texts import read_text
from evomerge.parsing.values import Values, shown
from evomerge.parsing.yaml import yaml_mapping

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
_VALUES = Values(RecipeError)
_CANDIDATES = 100  # the default of mergekit-evolve's option --max-fevals


def convert(text: str, count_layers: Callable[[str], int]) -> str:
    """Return the search file (YAML with comments) for a mergekit-evolve config.

    Args:
        text: the config.
        count_layers: returns the number of blocks of a model. It is called if the config has a
            `layer_granularity` (blocks in a group), because a search file has the number of groups.

    Raises:
        RecipeError: a key or value is wrong, or a search file cannot express it; the message names
            the key.
    """
    data = yaml_mapping(text, "The mergekit-evolve config", "one", RecipeError)
    _VALUES.mapping(data, "the mergekit-evolve config", _TOP)
    if data.get("genome") is None:
        raise RecipeError("The key `genome` is missing; is this a mergekit-evolve config?")
    genome = _VALUES.mapping(data["genome"], "genome", _GENOME)
    listed = _VALUES.items(genome.get("models"), "genome.models", least=1)
    models = [_VALUES.text(item, f"genome.models[{i}]", "a model") for i, item in enumerate(listed)]
    for model in models:
        if models.count(model) > 1:
            raise RecipeError(f"`genome.models` names {shown(model)} twice; name each once.")
    for key in ("shuffle", "random_init"):
        if data.get(key):
            raise RecipeError(
                f"`{key}` is set, but a search file has no such key; remove it. (A search file "
                "selects documents by `seed`, and a search starts within the ranges of `knobs`.)"
            )
    base, source = (
        _VALUES.text(genome[key], f"genome.{key}") if genome.get(key) else None
        for key in ("base_model", "tokenizer_source")
    )
    search: dict[str, Any] = {"seed": 0, "parents": models}
    if base:
        search["base"] = base
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

    Relative paths in the config start from the working folder, as in mergekit. If a model is on
    the Hub, only its config is downloaded.

    Raises:
        InputError: the file cannot be read or converted, or the config of a model cannot be read.
    """

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

    return convert(read_text(file, RecipeError), count_layers)


def _space(
    genome: Mapping[str, Any], models: list[str], count_layers: Callable[[str], int]
) -> dict[str, Any]:
    name = genome.get("merge_method")
    method = get_method(_VALUES.text(name, "genome.merge_method", "the name of a merge method"))
    space: dict[str, Any] = {"kind": "parameters", "method": method.name}
    granularity = genome.get("layer_granularity")
    if granularity:
        layers = count_layers(str(genome.get("base_model") or models[0]))
        if type(granularity) is not int or granularity < 1 or layers % granularity:
            raise RecipeError(
                f"`genome.layer_granularity` is {shown(granularity)}; it must divide the number of "
                f"layers, {layers}."
            )
        space["groups"] = layers // granularity
    filters = _VALUES.items(genome.get("filters") or [], "genome.filters")
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
    """Return the component of a search file for an entry of `genome.filters`."""
    for component, words in _COMPONENTS.items():
        if item == component or item in words:
            return component
    known = [word for every in _COMPONENTS.values() for word in every]
    raise RecipeError(
        f"`genome.filters` names {shown(item)}; a search file has attention, mlp and norm "
        f"({', '.join(known)}).{did_you_mean(str(item), known)}"
    )


def _objectives(tasks: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the objectives for the tasks of a config, and comments for the search file."""
    found: list[dict[str, Any]] = []
    notes: list[str] = []
    for i, task in enumerate(_VALUES.items(tasks, "tasks", least=1)):
        where = f"tasks[{i}]"
        _VALUES.mapping(task, where, ("name", "weight", "metric"))
        name = _VALUES.text(task.get("name"), f"{where}.name", "the name of a task")
        weight = _VALUES.real(task.get("weight", 1.0), f"{where}.weight")
        if weight == 0:
            raise RecipeError(f"`{where}.weight` is 0; leave the task out instead.")
        metric = _VALUES.text(task.get("metric", "acc,none"), f"{where}.metric")
        metric = metric.removesuffix(",none")
        found.append({"task": name, "metric": metric, "weight": abs(weight)})
        if weight < 0:
            notes.append(
                f"# {one_line(name)} had the weight {weight}. Its sign is dropped: a search knows "
                "for which metrics lower is better."
            )
    return found, notes


def _evaluation(data: Mapping[str, Any]) -> dict[str, Any]:
    evaluation: dict[str, Any] = {"include": []}
    limit = data.get("limit")
    if limit is not None:
        evaluation["search"] = {"documents": _VALUES.whole(limit, "limit", least=1)}
    if data.get("num_fewshot") is not None:
        evaluation["fewshot"] = _VALUES.whole(data["num_fewshot"], "num_fewshot")
    if data.get("apply_chat_template"):
        evaluation["chat_template"] = True
    return evaluation
