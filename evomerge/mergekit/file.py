"""The content of a mergekit file: all its forms are modules with slices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from evomerge.mergekit.values import Rules

MAIN = "default"
"""The name that mergekit gives to the only module of a text model."""


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
