"""Reading a mergekit file: its keys are checked, and all its forms become modules with slices."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from evomerge.errors import RecipeError, did_you_mean
from evomerge.mergekit.values import Rules, read_parameters
from evomerge.parsing.values import Values, shown
from evomerge.parsing.yaml import yaml_mapping
from evomerge.recipe import DTYPES

_VALUES = Values(RecipeError)

MAIN = "default"
"""The name that mergekit gives to the only module of a text model."""

_TOP = (
    "merge_method",
    "models",
    "slices",
    "modules",
    "base_model",
    "parameters",
    "dtype",
    "out_dtype",
    "tokenizer_source",
    "tokenizer",
    "chat_template",
)


@dataclass(frozen=True)
class Input:
    """A model in a slice.

    Attributes:
        model: reference of the model.
        layers: first block and one past the last block, or None for all blocks of the model.
        parameters: parameters of this model.
        where: address in the file, for error messages.
    """

    model: str
    layers: tuple[int, int] | None
    parameters: Mapping[str, Rules]
    where: str


@dataclass(frozen=True)
class Slice:
    """A range of blocks of the merged model, with the models that it is merged from.

    Attributes:
        inputs: the models, in order.
        base: base model of this slice, or None.
        parameters: parameters of this slice.
        where: address in the file, for error messages.
    """

    inputs: tuple[Input, ...]
    base: str | None
    parameters: Mapping[str, Rules]
    where: str


@dataclass(frozen=True)
class Module:
    """A block stack of the merged model.

    Attributes:
        name: mergekit's name of it, or None if the file has no `modules`.
        slices: its slices, in order.
        parameters: parameters of this module.
        whole: whether the file has `models`, of which all blocks are merged, and not `slices`.
    """

    name: str | None
    slices: tuple[Slice, ...]
    parameters: Mapping[str, Rules]
    whole: bool


@dataclass(frozen=True)
class MergekitFile:
    """A mergekit file.

    Attributes:
        method: `merge_method`.
        modules: the modules, at least one.
        base: `base_model`, or None.
        parameters: parameters of the whole merge.
        dtype: dtype of the written weights, or None if the file does not set it.
        tokenizer: `base`, `union`, a model, or None if the file does not set it.
        options: options of the recipe (`tokens`, `pad_to_multiple_of`, `chat_template`).
    """

    method: str
    modules: tuple[Module, ...]
    base: str | None
    parameters: Mapping[str, Rules]
    dtype: str | None
    tokenizer: str | None
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def parents(self) -> tuple[str, ...]:
        """All models that the file names; the first one gives the config."""
        seen = {self.base: None} if self.base else {}
        for item in self._slices():
            if item.base:
                seen.setdefault(item.base)
            for model in item.inputs:
                seen.setdefault(model.model)
        named = [self.tokenizer] if self.tokenizer not in (None, "base", "union") else []
        return tuple(dict.fromkeys([*seen, *(name for name in named if name)]))

    def _slices(self) -> Iterator[Slice]:
        for module in self.modules:
            yield from module.slices


def read(text: str) -> MergekitFile:
    """Read and check a mergekit file.

    Raises:
        RecipeError: a key is unknown or missing, or a value is wrong; the message names the key.
    """
    data = yaml_mapping(text, "The mergekit file", "a mergekit file", RecipeError)
    _VALUES.mapping(data, "the mergekit file", _TOP)
    method = _VALUES.text(data.get("merge_method"), "merge_method", "the name of a merge method")
    tokenizer, options = _tokenizer(data)
    if data.get("chat_template") is not None:
        options["chat_template"] = _VALUES.text(data["chat_template"], "chat_template")
    return MergekitFile(
        method=method,
        modules=_modules(data),
        base=_model(data["base_model"], "base_model") if data.get("base_model") else None,
        parameters=read_parameters(data.get("parameters"), "parameters"),
        dtype=_dtype(data),
        tokenizer=tokenizer,
        options=options,
    )


def _modules(data: Mapping[str, Any]) -> tuple[Module, ...]:
    given = [key for key in ("models", "slices", "modules") if data.get(key) is not None]
    if len(given) != 1:
        got = " and ".join(f"`{key}`" for key in given) or "none of them"
        raise RecipeError(f"Exactly one of `models`, `slices` and `modules` is needed; got {got}.")
    if given != ["modules"]:
        return (_module(None, data, {}, ""),)
    modules = _VALUES.mapping(data["modules"], "modules")
    if not modules:
        raise RecipeError("`modules` must be a mapping from module name to its slices or models.")
    found = []
    for name, content in modules.items():
        where = f"modules.{name}"
        _VALUES.mapping(content, where, ("slices", "models", "parameters"))
        if (content.get("slices") is None) == (content.get("models") is None):
            raise RecipeError(f"`{where}` needs either `slices` or `models`.")
        found.append(_module(name, content, content.get("parameters"), f"{where}."))
    return tuple(found)


def _module(name: str | None, content: Mapping[str, Any], parameters: Any, prefix: str) -> Module:
    own = read_parameters(parameters, f"{prefix}parameters")
    if content.get("models") is not None:
        where = f"{prefix}models"
        keys = ("model", "parameters")
        inputs = tuple(
            _input(item, keys, f"{where}[{i}]")
            for i, item in enumerate(_VALUES.items(content["models"], where, least=1))
        )
        _check_distinct(inputs, where)
        return Module(name, (Slice(inputs, None, {}, where),), own, whole=True)
    where = f"{prefix}slices"
    slices = (
        _slice(item, f"{where}[{i}]")
        for i, item in enumerate(_VALUES.items(content["slices"], where, least=1))
    )
    return Module(name, tuple(slices), own, whole=False)


def _slice(data: Any, where: str) -> Slice:
    _VALUES.mapping(data, where, ("sources", "base_model", "parameters"))
    keys = ("model", "layer_range", "parameters")
    sources = _VALUES.items(data.get("sources"), f"{where}.sources", least=1)
    inputs = tuple(_input(item, keys, f"{where}.sources[{i}]") for i, item in enumerate(sources))
    base = data.get("base_model")
    return Slice(
        inputs,
        _model(base, f"{where}.base_model") if base else None,
        read_parameters(data.get("parameters"), f"{where}.parameters"),
        where,
    )


def _input(data: Any, keys: tuple[str, ...], where: str) -> Input:
    _VALUES.mapping(data, where, keys)
    if "model" not in data:
        raise RecipeError(f"`{where}.model` is missing.")
    layers = None
    if "layer_range" in keys:
        layers = data.get("layer_range")
        if not (
            isinstance(layers, list)
            and len(layers) == 2
            and all(type(item) is int for item in layers)
            and 0 <= layers[0] < layers[1]
        ):
            raise RecipeError(
                f"`{where}.layer_range` is {shown(layers)}; it must be [first, one past the last], "
                "counted from 0."
            )
        layers = (layers[0], layers[1])
    parameters = read_parameters(data.get("parameters"), f"{where}.parameters")
    return Input(_model(data["model"], f"{where}.model"), layers, parameters, where)


def _check_distinct(inputs: tuple[Input, ...], where: str) -> None:
    names = [item.model for item in inputs]
    for name in names:
        if names.count(name) > 1:
            raise RecipeError(f"`{where}` names {name!r} twice; name each model once.")


def _tokenizer(data: Mapping[str, Any]) -> tuple[str | None, dict[str, str]]:
    if data.get("tokenizer_source") is not None and data.get("tokenizer") is not None:
        raise RecipeError("Give either `tokenizer_source` or `tokenizer`, not both.")
    if data.get("tokenizer_source") is not None:
        return _VALUES.text(data["tokenizer_source"], "tokenizer_source"), {}
    content = data.get("tokenizer")
    if content is None:
        return None, {}
    _VALUES.mapping(content, "tokenizer", ("source", "tokens", "pad_to_multiple_of"))
    options: dict[str, str] = {}
    if content.get("tokens"):
        tokens = _VALUES.mapping(content["tokens"], "tokenizer.tokens")
        options["tokens"] = json.dumps(tokens, sort_keys=True, separators=(",", ":"))
    multiple = content.get("pad_to_multiple_of")
    if multiple is not None:
        where = "tokenizer.pad_to_multiple_of"
        options["pad_to_multiple_of"] = str(_VALUES.whole(multiple, where, least=1, most=2**20))
    return _VALUES.text(content.get("source", "union"), "tokenizer.source"), options


def _dtype(data: Mapping[str, Any]) -> str | None:
    for key in ("dtype", "out_dtype"):
        value = data.get(key)
        if value is not None and value not in DTYPES:
            raise RecipeError(
                f"`{key}` is {shown(value)}; allowed are {', '.join(DTYPES)}."
                f"{did_you_mean(str(value), DTYPES)}"
            )
    return data.get("out_dtype") or data.get("dtype")


def _model(data: Any, where: str) -> str:
    kind = "a model reference such as org/name@revision, a folder, or model+adapter"
    return _VALUES.text(data, where, kind)
