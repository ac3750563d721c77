"""Reading a file of mergekit-moe: a base, experts with prompts, and how routers are made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evomerge.errors import RecipeError, did_you_mean
from evomerge.merging.mixtures.mixture import GATES, Expert, Mixture
from evomerge.parsing.values import Values, shown
from evomerge.parsing.yaml import yaml_mapping, yaml_text
from evomerge.recipe import DTYPES

_VALUES = Values(RecipeError)
_TOP = (
    "base_model",
    "gate_mode",
    "dtype",
    "experts_per_token",
    "experts",
    "shared_experts",
    "architecture",
)
_EXPERT = ("source_model", "positive_prompts", "negative_prompts", "residual_scale", "noise_scale")
_MODEL = "a model reference such as org/name@revision, a folder, or model+adapter"
_LEAST = 2
_DTYPES = tuple(name for name in DTYPES if name != "float64")  # transformers computes no experts
_OTHERS = {
    "merge_method": ("a mergekit file of a merge", "merge FILE --out DIR` builds its model"),
    "parents": ("a search file", "search FILE --run DIR` runs it"),
    "host": ("a recipe", "merge FILE --out DIR` builds its model"),
}
"""A key that no mixture has -> what the file is then, and its command."""


def read_mixture(text: str, source: str) -> Mixture:
    """Read and check a file of mergekit-moe. A key that mergekit does not know is an error.

    `source` is its name, for messages.

    Raises:
        RecipeError: a key is missing or not known, a value is wrong, an expert has no prompts for
            its router, or there are fewer experts than each token goes to.
    """
    data = yaml_mapping(text, source, "a file of mergekit-moe", RecipeError)
    for key, (kind, command) in _OTHERS.items():
        if key in data and "experts" not in data:
            raise RecipeError(
                f"{source} is {kind}, and no file of mergekit-moe; `evomerge {command}."
            )
    _VALUES.mapping(data, "the file of the mixture", _TOP)
    data = {key: value for key, value in data.items() if value is not None}
    base = _VALUES.text(data.get("base_model"), "base_model", _MODEL)
    gates = _one_of(data.get("gate_mode", "hidden"), "gate_mode", GATES)
    given = _VALUES.items(data.get("experts"), "experts")
    if len(given) < _LEAST:
        raise RecipeError(f"`experts` has {len(given)} entries; a mixture has {_LEAST} or more.")
    experts = tuple(_expert(item, f"experts[{i}]") for i, item in enumerate(given))
    shared = _VALUES.items(data.get("shared_experts", ()), "shared_experts")
    if len(shared) > 1:
        raise RecipeError(
            f"`shared_experts` has {len(shared)} entries; no mixture has more than one; name one."
        )
    mixture = Mixture(
        base,
        experts,
        gates,
        _VALUES.whole(
            data.get("experts_per_token", 2), "experts_per_token", least=1, most=len(experts)
        ),
        _one_of(data["dtype"], "dtype", _DTYPES) if "dtype" in data else None,
        _expert(shared[0], "shared_experts[0]") if shared else None,
        _VALUES.text(data["architecture"], "architecture") if "architecture" in data else None,
    )
    for number, item in enumerate(mixture.every if mixture.needs_prompts else ()):
        if not item.positive:
            where = f"experts[{number}]" if number < len(experts) else "shared_experts[0]"
            raise RecipeError(
                f"`{where}` has no `positive_prompts`, of which `gate_mode` {gates!r} makes its "
                "router; add some, or set `gate_mode: random`."
            )
    return mixture


def renamed_mixture(text: str, names: Mapping[str, str]) -> str:
    """Return the text of such a file, already checked, with other references of its models."""
    data = yaml_mapping(text, "The file of the mixture", "a file of mergekit-moe", RecipeError)
    data["base_model"] = names[data["base_model"]]
    for expert in (*data["experts"], *(data.get("shared_experts") or ())):
        expert["source_model"] = names[expert["source_model"]]
    return yaml_text(data, width=100)


def _one_of(value: Any, where: str, allowed: Any) -> Any:
    if value not in allowed:
        raise RecipeError(
            f"`{where}` is {shown(value)}; allowed are {', '.join(allowed)}."
            f"{did_you_mean(str(value), allowed)}"
        )
    return value


def _expert(data: Any, where: str) -> Expert:
    _VALUES.mapping(data, where, _EXPERT)
    data = {key: value for key, value in data.items() if value is not None}
    noise = _VALUES.real(data.get("noise_scale", 0.0), f"{where}.noise_scale")
    if noise < 0:
        raise _VALUES.wrong(noise, f"{where}.noise_scale", "a number from 0")
    return Expert(
        _VALUES.text(data.get("source_model"), f"{where}.source_model", _MODEL),
        _prompts(data, where, "positive_prompts"),
        _prompts(data, where, "negative_prompts"),
        _VALUES.real(data.get("residual_scale", 1.0), f"{where}.residual_scale"),
        noise,
    )


def _prompts(data: Mapping[str, Any], where: str, key: str) -> tuple[str, ...]:
    given = _VALUES.items(data.get(key, ()), f"{where}.{key}")
    for number, item in enumerate(given):
        if not isinstance(item, str):  # "" is a prompt, too: the token that begins a text
            raise _VALUES.wrong(item, f"{where}.{key}[{number}]", "text")
    return tuple(given)
