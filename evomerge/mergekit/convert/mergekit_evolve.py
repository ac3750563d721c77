"""Converting a mergekit-evolve config to a search file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evomerge.errors import CheckpointError, RecipeError, did_you_mean
from evomerge.mergekit.convert.draft import VALUES, Draft
from evomerge.merging.methods import get_method
from evomerge.merging.methods.method import Method
from evomerge.models.causal import TEMPLATE_FILES, has_chat_template
from evomerge.models.references import folder_with
from evomerge.models.safetensors import read_json
from evomerge.parsing.values import shown

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
_TOP = (
    "genome",
    "tasks",
    "limit",
    "num_fewshot",
    "shuffle",
    "random_init",
    "apply_chat_template",
    "fewshot_as_multiturn",
)
_COMPONENTS = {
    "attention": ("self_attn", "attn", "attention", "self_attention"),
    "mlp": ("mlp", "feed_forward", "ffn"),
    "norm": ("norm", "layernorm"),
}
_NORMALIZED = ("linear", "ties", "dare_ties")
"""Methods for which mergekit-evolve sets `normalize` if the config does not."""

_CANDIDATES = 100  # the default of mergekit-evolve's option --max-fevals

_LAYERS = ("num_hidden_layers", "n_layer", "num_layers")
_TOKENIZER_FILES = ["tokenizer_config.json", *TEMPLATE_FILES]


class ModelFiles:
    """Answers questions about models by their config files; None if these cannot be read.

    Of a model on the Hub, only these files are downloaded.
    """

    def __init__(self, relative_to: Path) -> None:
        self._relative_to = relative_to

    def layers(self, model: str) -> int | None:
        """Return the number of blocks of a model."""
        try:
            folder = folder_with(["config.json"], model, self._relative_to)
            config = read_json(folder / "config.json")
        except CheckpointError:
            return None
        for section in (config, *(v for v in config.values() if isinstance(v, dict))):
            for key in _LAYERS:
                if type(section.get(key)) is int:
                    return int(section[key])
        return None

    def chat_template(self, model: str) -> bool | None:
        """Whether the tokenizer of a model has a chat template."""
        try:
            folder = folder_with(_TOKENIZER_FILES, model, self._relative_to)
            if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
                return None  # in the Hub's cache, a model may have only some of its files
            return has_chat_template(folder)
        except CheckpointError:
            return None


def from_mergekit_evolve(data: Mapping[str, Any], lookup: ModelFiles) -> Draft:
    """Return the draft of a search file for the content of a mergekit-evolve config.

    `lookup` is asked for the number of layers, because a search file has the number of groups, and
    for a chat template, which mergekit-evolve applies by default.

    Raises:
        RecipeError: a key or value is wrong, or a search file cannot express it.
    """
    draft = Draft("mergekit-evolve")
    draft.known(data, "the mergekit-evolve config", _TOP)
    if data.get("genome") is None:
        raise RecipeError("The key `genome` is missing; is this a mergekit-evolve config?")
    genome = draft.known(data["genome"], "genome", _GENOME)
    if VALUES.flag(data.get("shuffle") or False, "shuffle"):
        draft.notes.append("`shuffle` is dropped: documents are always drawn at random, by `seed`.")
    if VALUES.flag(data.get("random_init") or False, "random_init"):
        draft.notes.append(
            "`random_init` is dropped: a search starts in the middle of the ranges of "
            "`space.knobs`; for another start, change the ranges."
        )
    models, base = _models(genome)
    method = _method(genome, models, draft)
    if method.base != "required" and base is not None and base not in models:
        draft.notes.append(
            f"`genome.base_model`: {method.name} merges no base, so the base only gives the config "
            "and the tokenizer."
            if method.base == "none"
            else f"`genome.base_model` is dropped: {method.name} would use task vectors with it."
        )
    if method.base == "optional":
        base = None
    draft.search |= {"seed": 0, "parents": models} | ({"base": base} if base else {})
    source = genome.get("tokenizer_source")
    if source and source != "base":
        text = VALUES.text(source, "genome.tokenizer_source")
        draft.search["tokenizer"] = text.removeprefix("model:")
    draft.search["space"] = _space(genome, models, method, lookup, draft)
    draft.search["optimizer"] = {"name": "cma"}
    _add_objectives(data.get("tasks"), draft)
    draft.search["evaluation"] = _evaluation(data, draft)
    _chat_template(data, lookup, draft)
    draft.search["budget"] = {"candidates": _CANDIDATES}
    draft.checks += [
        f"budget.candidates: --max-fevals there, {_CANDIDATES} by default.",
        "evaluation.include: folders of your own tasks, --task-search-path there.",
        "evaluation: by default 200 documents for validation and all others for the test are kept "
        "from the search.",
    ]
    return draft


def _models(genome: Mapping[str, Any]) -> tuple[list[str], str | None]:
    """Return the models and the base of a genome."""
    listed = VALUES.items(genome.get("models"), "genome.models", least=1)
    models = [VALUES.text(item, f"genome.models[{i}]", "a model") for i, item in enumerate(listed)]
    for model in models:
        if models.count(model) > 1:
            raise RecipeError(f"`genome.models` names {shown(model)} twice; name each once.")
    base = genome.get("base_model")
    return models, VALUES.text(base, "genome.base_model", "a model") if base else None


def _method(genome: Mapping[str, Any], models: list[str], draft: Draft) -> Method:
    """Return the merge method of a search file for that of a genome."""
    name = genome.get("merge_method")
    method = get_method(VALUES.text(name, "genome.merge_method", "the name of a merge method"))
    if method.name != "slerp" or len(models) == 2:
        return method
    if len(models) < 2:
        raise RecipeError("`genome.merge_method` is 'slerp', but `genome.models` names one model.")
    draft.notes.append(
        f"`genome.merge_method`: slerp merges two models, and mergekit-evolve chose two of the "
        f"{len(models)} for each group of layers; here multislerp merges all of them."
    )
    return get_method("multislerp")


def _space(
    genome: Mapping[str, Any], models: list[str], method: Method, lookup: ModelFiles, draft: Draft
) -> dict[str, Any]:
    space: dict[str, Any] = {"kind": "parameters", "method": method.name}
    granularity = VALUES.whole(genome.get("layer_granularity") or 0, "genome.layer_granularity")
    if granularity == 1:
        space["groups"] = "each"
    elif granularity and (groups := _groups(granularity, models, lookup, draft)):
        space["groups"] = groups
    filters = VALUES.items(genome.get("filters") or [], "genome.filters")
    components = [_component(item) for item in filters]
    if components:
        space["components"] = list(dict.fromkeys(components))
    # mergekit merges embeddings and head with the numbers of the first and the last group
    space["embeddings"] = False
    if VALUES.flag(genome.get("smooth") or False, "genome.smooth"):
        space["smooth"] = True
    return {**space, "knobs": _knobs(genome, method, draft)}


def _groups(granularity: int, models: list[str], lookup: ModelFiles, draft: Draft) -> int | None:
    """Return the number of groups with this many layers, or None if it is not known."""
    layers = lookup.layers(models[0])
    if layers is None:
        draft.unknown(
            f"space.groups: set it to the number of layers divided by {granularity} "
            f"(layer_granularity). The config of {models[0]} could not be read, so there is one "
            "group."
        )
        return None
    if layers % granularity:
        raise RecipeError(
            f"`genome.layer_granularity` is {granularity}; it must divide the number of layers, "
            f"{layers}."
        )
    return layers // granularity


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


def _knobs(genome: Mapping[str, Any], method: Method, draft: Draft) -> dict[str, Any]:
    """Return the ranges and numbers of the knobs that mergekit-evolve searches or sets."""
    known = {knob.name for knob in method.knobs}
    flags = {
        key: None if genome.get(key) is None else VALUES.flag(genome[key], f"genome.{key}")
        for key in ("allow_negative_weights", "normalize")
    }
    knobs: dict[str, Any] = {}
    if "weight" in known:
        low = -1.0 if flags["allow_negative_weights"] else 0.0
        knobs["weight"] = [low, 1.0]
        draft.checks.append(
            f"space.knobs.weight: from {low:g} to 1; mergekit-evolve starts at 1 / (number of "
            "models) and sets no bounds."
        )
    elif flags["allow_negative_weights"]:
        draft.notes.append(
            f"`genome.allow_negative_weights` is dropped: {method.name} has no weights."
        )
    if method.name in ("ties", "dare_ties"):
        knobs["density"] = [0.0, 1.0]
    if "t" in known:
        knobs["t"] = [0.0, 1.0]
    normalize = flags["normalize"]
    if "normalize" in known:
        knobs["normalize"] = int(method.name in _NORMALIZED if normalize is None else normalize)
    elif normalize is not None:
        draft.notes.append(
            f"`genome.normalize` is dropped: {method.name} has no such parameter, and mergekit "
            "ignores it."
        )
    return knobs


def _add_objectives(tasks: Any, draft: Draft) -> None:
    """Add the objectives for the tasks of a config."""
    for i, item in enumerate(VALUES.items(tasks, "tasks", least=1)):
        where = f"tasks[{i}]"
        task = draft.known(
            {"name": item} if isinstance(item, str) else item, where, ("name", "weight", "metric")
        )
        name = VALUES.text(task.get("name"), f"{where}.name", "the name of a task")
        weight = VALUES.real(task.get("weight", 1.0), f"{where}.weight")
        metric = VALUES.text(task.get("metric", "acc,none"), f"{where}.metric")
        if weight == 0:
            draft.notes.append(f"`{where}` is dropped: its weight is 0.")
            continue
        if weight < 0:
            draft.notes.append(
                f"`{where}.weight` is {weight:g}; its sign is dropped, because a search knows for "
                "which metrics lower is better."
            )
        draft.add_objective(name, metric.removesuffix(",none"), abs(weight))
    if "objectives" not in draft.search:
        raise RecipeError("`tasks`: every weight is 0, so there is nothing to search for.")


def _evaluation(data: Mapping[str, Any], draft: Draft) -> dict[str, Any]:
    evaluation: dict[str, Any] = {"include": []}
    if data.get("limit") is None:
        draft.notes.append(
            "`limit` is not set, so mergekit-evolve scores every candidate on all documents; here "
            "`evaluation.search.documents` is 200 by default."
        )
    else:
        limit = VALUES.whole(data["limit"], "limit", least=1)
        evaluation["search"] = {"documents": limit}
        draft.notes.append(
            f"`limit`: mergekit-evolve takes the first {limit} documents of a task, a search draws "
            f"{limit} at random, by `seed`."
        )
    if data.get("num_fewshot") is not None:
        evaluation["fewshot"] = VALUES.whole(data["num_fewshot"], "num_fewshot")
    return evaluation


def _chat_template(data: Mapping[str, Any], lookup: ModelFiles, draft: Draft) -> None:
    """Set `evaluation.chat_template`, which mergekit-evolve's evaluator has on by default."""
    wanted, turns = (
        VALUES.flag(True if data.get(key) is None else data[key], key)
        for key in ("apply_chat_template", "fewshot_as_multiturn")
    )
    search = draft.search
    model = search.get("tokenizer", "union")
    if model == "union":
        model = search.get("base", search["parents"][0])
    has_one = lookup.chat_template(model) if wanted else None
    search["evaluation"]["chat_template"] = wanted and has_one is not False
    if not wanted:
        return
    reason = "as by default in mergekit-evolve 0.1.4 and newer"
    if has_one is False:
        draft.unknown(
            f"evaluation.chat_template: false, not true {reason}, because the tokenizer of {model} "
            "has no chat template."
        )
        return
    if has_one is None:
        draft.unknown(
            f"evaluation.chat_template: true, {reason}. The tokenizer of {model} could not be "
            "read; if it has no chat template, set false."
        )
    elif "apply_chat_template" not in data:
        draft.checks.append(f"evaluation.chat_template: true, {reason}; before, there was none.")
    if not turns:
        draft.notes.append(
            "`fewshot_as_multiturn` is dropped: with a chat template, few-shot examples are always "
            "turns of the chat."
        )
