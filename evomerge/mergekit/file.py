"""The content of a mergekit file: all its forms are modules with slices."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from evomerge.errors import RecipeError, did_you_mean
from evomerge.mergekit.values import Rules
from evomerge.parsing.values import Values, shown

_VALUES = Values(RecipeError)

MAIN = "default"
"""The name that mergekit gives to the only module of a text model."""


_NEAR = 0.8
"""Likeness of two names, from 0 to 1, from which one is taken for the other, misspelt."""


@dataclass(frozen=True)
class Input:
    """A model in a slice.

    Attributes:
        layers: first block and one past the last block, or None for all blocks of the model.
    """

    model: str
    layers: tuple[int, int] | None
    parameters: Mapping[str, Rules]
    where: str


@dataclass(frozen=True)
class Slice:
    """A range of blocks of the merged model, with the models that it is merged from."""

    inputs: tuple[Input, ...]
    base: str | None
    parameters: Mapping[str, Rules]
    where: str


@dataclass(frozen=True)
class Module:
    """A block stack of the merged model.

    Attributes:
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
        for item in (part for module in self.modules for part in module.slices):
            if item.base:
                seen.setdefault(item.base)
            for model in item.inputs:
                seen.setdefault(model.model)
        if self.tokenizer and self.tokenizer not in ("base", "union"):
            seen.setdefault(self.tokenizer)
        return tuple(seen)


def check_spelling(name: str, known: Iterable[str], where: str) -> None:
    """Raise a `RecipeError` if an unknown name is nearly a known one: `wieght`, `weights`."""
    alike = [item for item in known if item[0] == name[:1]]  # `scale` is not `rescale`
    for near in difflib.get_close_matches(name, alike, n=1, cutoff=_NEAR):
        raise RecipeError(
            f"{shown(name)} in `{where or 'the mergekit file'}` is nearly {near!r}, and would be "
            f"ignored; write {near!r}, or remove it."
        )


class ImportWarnings:
    """Collects warnings about a mergekit file, one sentence each.

    They are about keys that mergekit ignores, and about models that the file leaves open.
    """

    def __init__(self) -> None:
        self._notes: dict[str, None] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        """All warnings, each once, in the order of the file."""
        return tuple(self._notes)

    def add(self, sentence: str) -> None:
        """Add a warning."""
        self._notes.setdefault(sentence)

    def known(
        self, data: Any, where: str, known: Collection[str], elsewhere: Collection[str] = ()
    ) -> Mapping[str, Any]:
        """Return a mapping of the file; warn of each key that is not known.

        Names in `elsewhere` are those of the method's parameters, which belong under `parameters`.
        """
        if not isinstance(data, Mapping):
            raise _VALUES.wrong(data, where, f"a mapping of {', '.join(known)}")
        place = f" in `{where}`" if where else ""
        for key in _VALUES.mapping(data, where or "the mergekit file"):
            if key not in known:
                check_spelling(key, {"parameters"} & {*known}, where)
                fix = "move it to `parameters`" if key in elsewhere else "remove it"
                self.add(
                    f"Key {shown(key)}{place} is ignored, as in mergekit; {fix}."
                    f"{did_you_mean(key, known)}"
                )
        return data
