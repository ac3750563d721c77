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


def read_mixture(text: str) -> Mixture:
    """Read and check a file of mergekit-moe. A key that mergekit does not know is an error.

    Raises:
        RecipeError: a key is missing or not known, a value is wrong, an expert has no prompts for
            its router, or there are fewer experts than each token goes to.
    """
    data = _VALUES.mapping(
        yaml_mapping(text, "The file of the mixture", "a file of mergekit-moe", RecipeError),
        "the file of the mixture",
        _TOP,
    )
    base = _VALUES.text(data.get("base_model"), "base_model", _MODEL)
    gates = _one_of(data.get("gate_mode") or "hidden", "gate_mode", GATES)
    dtype = data.get("dtype")
    given = _VALUES.items(data.get("experts"), "experts")
    if len(given) < _LEAST:
        raise RecipeError(f"`experts` has {len(given)} entries; a mixture has {_LEAST} or more.")
    experts = tuple(_expert(item, f"experts[{i}]") for i, item in enumerate(given))
    shared = _VALUES.items(data.get("shared_experts") or (), "shared_experts")
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
        None if dtype is None else _one_of(dtype, "dtype", DTYPES),
        _expert(shared[0], "shared_experts[0]") if shared else None,
        _VALUES.text(data["architecture"], "architecture") if data.get("architecture") else None,
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
    data = _VALUES.mapping(data, where, _EXPERT)
    return Expert(
        _VALUES.text(data.get("source_model"), f"{where}.source_model", _MODEL),
        _prompts(data, where, "positive_prompts"),
        _prompts(data, where, "negative_prompts"),
        _number(data, where, "residual_scale", 1.0),
        _number(data, where, "noise_scale", 0.0),
    )


def _prompts(data: Mapping[str, Any], where: str, key: str) -> tuple[str, ...]:
    given = _VALUES.items(data.get(key) or (), f"{where}.{key}")
    return tuple(_VALUES.text(item, f"{where}.{key}[{i}]") for i, item in enumerate(given))


def _number(data: Mapping[str, Any], where: str, key: str, default: float) -> float:
    value = data.get(key)
    return default if value is None else _VALUES.real(value, f"{where}.{key}")
