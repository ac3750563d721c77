"""Reading a mergekit file: its keys are checked, and all its forms become modules with slices.

As in mergekit, a key that is not known changes nothing; it is a doubt (see `ImportWarnings`). But a
parameter that is misspelt is an error: mergekit would merge with its default without a word.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from evomerge.errors import RecipeError, did_you_mean
from evomerge.mergekit.file import (
    ImportWarnings,
    Input,
    MergekitFile,
    Module,
    Slice,
    check_spelling,
)
from evomerge.mergekit.values import Rules, read_parameters
from evomerge.merging.methods import get_method
from evomerge.parsing.values import Values, shown
from evomerge.parsing.yaml import yaml_mapping
from evomerge.recipe import DTYPES

_VALUES = Values(RecipeError)

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


def read(text: str, doubts: ImportWarnings | None = None) -> MergekitFile:
    """Read and check a mergekit file.

    Raises:
        RecipeError: a key is missing, or a value is wrong; the message names the key.
    """
    data = yaml_mapping(text, "The mergekit file", "a mergekit file", RecipeError)
    return _Reader(data, doubts or ImportWarnings()).file()


class _Reader:
    def __init__(self, data: Mapping[str, Any], doubts: ImportWarnings) -> None:
        self.data, self.doubts = data, doubts
        name = data.get("merge_method")
        self.method = get_method(_VALUES.text(name, "merge_method", "the name of a merge method"))

    def file(self) -> MergekitFile:
        data = self._known(self.data, "", _TOP)
        tokenizer, options = self._tokenizer()
        if data.get("chat_template") is not None:
            options["chat_template"] = _VALUES.text(data["chat_template"], "chat_template")
        return MergekitFile(
            method=self.method.name,
            modules=self._modules(),
            base=_model(data["base_model"], "base_model") if data.get("base_model") else None,
            parameters=self._parameters(data, ""),
            dtype=_dtype(data),
            tokenizer=tokenizer,
            options=options,
        )

    def _known(self, data: Any, where: str, known: Collection[str]) -> Mapping[str, Any]:
        elsewhere = {knob.name for knob in self.method.knobs} if "parameters" in known else ()
        return self.doubts.known(data, where, known, elsewhere)

    def _parameters(
        self, data: Mapping[str, Any], prefix: str, *, source: bool = False
    ) -> dict[str, Rules]:
        """Return the parameters at one level of the file; those without an effect are left out."""
        where = f"{prefix}parameters"
        given = {} if data.get("parameters") is None else data["parameters"]
        known = {knob.name: knob for knob in self.method.knobs}
        counting = {}
        for name, value in _VALUES.mapping(given, where).items():
            knob = known.get(name)
            if knob is None:
                check_spelling(name, known, where)
                self.doubts.add(
                    f"`{where}.{name}` is ignored, as in mergekit, since {self.method.name} has no "
                    f"such parameter (it has {', '.join(known) or 'none'}); remove it."
                    f"{did_you_mean(name, known)}"
                )
            elif source and knob.per == "merge":
                if knob.default is None and name not in (self.data.get("parameters") or {}):
                    raise RecipeError(
                        f"`{where}.{name}` belongs to the merge as a whole; give it in "
                        "`parameters` of the slice, the module or the file."
                    )
                self.doubts.add(
                    f"`{where}.{name}` is ignored, as in mergekit, since it belongs to the merge "
                    "as a whole; give it in `parameters` of the slice, the module or the file."
                )
            elif knob.low == knob.high:
                self.doubts.add(
                    f"`{where}.{name}` is ignored, as in mergekit, since it is always "
                    f"{knob.low:g} in {self.method.name}; remove it."
                )
            else:
                counting[name] = value
        return read_parameters(counting, where)

    def _modules(self) -> tuple[Module, ...]:
        data = self.data
        given = [key for key in ("models", "slices", "modules") if data.get(key) is not None]
        if len(given) != 1:
            got = " and ".join(f"`{key}`" for key in given) or "none of them"
            raise RecipeError(
                f"Exactly one of `models`, `slices` and `modules` is needed; got {got}."
            )
        if given != ["modules"]:
            return (self._module(None, {key: data[key] for key in given}, ""),)
        modules = _VALUES.mapping(data["modules"], "modules")
        if not modules:
            raise RecipeError(
                "`modules` must be a mapping from module name to its slices or models."
            )
        found = []
        for name, content in modules.items():
            where = f"modules.{name}"
            self._known(content, where, ("slices", "models", "parameters"))
            if (content.get("slices") is None) == (content.get("models") is None):
                raise RecipeError(f"`{where}` needs either `slices` or `models`.")
            found.append(self._module(name, content, f"{where}."))
        return tuple(found)

    def _module(self, name: str | None, content: Mapping[str, Any], prefix: str) -> Module:
        own = self._parameters(content, prefix)
        if content.get("models") is not None:
            where = f"{prefix}models"
            keys = ("model", "parameters")
            inputs = [
                self._input(item, keys, f"{where}[{i}]")
                for i, item in enumerate(_VALUES.items(content["models"], where, least=1))
            ]
            distinct = self._distinct(inputs, where)
            return Module(name, (Slice(distinct, None, {}, where),), own, whole=True)
        where = f"{prefix}slices"
        slices = (
            self._slice(item, f"{where}[{i}]")
            for i, item in enumerate(_VALUES.items(content["slices"], where, least=1))
        )
        return Module(name, tuple(slices), own, whole=False)

    def _slice(self, data: Any, where: str) -> Slice:
        self._known(data, where, ("sources", "base_model", "parameters"))
        keys = ("model", "layer_range", "parameters")
        sources = _VALUES.items(data.get("sources"), f"{where}.sources", least=1)
        inputs = tuple(
            self._input(item, keys, f"{where}.sources[{i}]") for i, item in enumerate(sources)
        )
        base = data.get("base_model")
        return Slice(
            inputs,
            _model(base, f"{where}.base_model") if base else None,
            self._parameters(data, f"{where}."),
            where,
        )

    def _input(self, data: Any, keys: tuple[str, ...], where: str) -> Input:
        self._known(data, where, keys)
        if "model" not in data:
            hint = next((hint for key in data if (hint := did_you_mean(key, ("model",)))), "")
            raise RecipeError(f"`{where}.model` is missing.{hint}")
        layers = None
        if "layer_range" in keys:
            layers = data.get("layer_range")
            if layers is None:
                self.doubts.add(
                    f"`{where}.layer_range` is missing, so all blocks are taken; give it as "
                    "[first, one past the last], counted from 0."
                )
            elif not (
                isinstance(layers, list)
                and len(layers) == 2
                and all(type(item) is int for item in layers)
                and 0 <= layers[0] < layers[1]
            ):
                raise RecipeError(
                    f"`{where}.layer_range` is {shown(layers)}; it must be [first, one past the "
                    "last], counted from 0."
                )
            layers = None if layers is None else (layers[0], layers[1])
        parameters = self._parameters(data, f"{where}.", source=True)
        return Input(_model(data["model"], f"{where}.model"), layers, parameters, where)

    def _distinct(self, inputs: Sequence[Input], where: str) -> tuple[Input, ...]:
        """Return the inputs, each model once."""
        found: dict[str, Input] = {}
        for item in inputs:
            first = found.setdefault(item.model, item)
            if first.parameters != item.parameters:
                raise RecipeError(
                    f"`{where}` names {item.model!r} twice, with different parameters; name each "
                    "model once."
                )
            if first is not item:
                self.doubts.add(
                    f"`{where}` names {item.model!r} twice, and it is merged once; name each model "
                    "once."
                )
        return tuple(found.values())

    def _tokenizer(self) -> tuple[str | None, dict[str, str]]:
        data = self.data
        if data.get("tokenizer_source") is not None and data.get("tokenizer") is not None:
            raise RecipeError("Give either `tokenizer_source` or `tokenizer`, not both.")
        if data.get("tokenizer_source") is not None:
            return _VALUES.text(data["tokenizer_source"], "tokenizer_source"), {}
        content = data.get("tokenizer")
        if content is None:
            return None, {}
        self._known(content, "tokenizer", ("source", "tokens", "pad_to_multiple_of"))
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
