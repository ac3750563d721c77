"""The parts of a recipe, and how they are read from plain values."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from evomerge.errors import RecipeError
from evomerge.parsing.values import Values, shown

Knob: TypeAlias = float | tuple[tuple[str, float], ...]
"""One number, or (substring of a tensor name, number) pairs.

The first pair whose substring is in the tensor's name applies; `"*"` matches every name.
"""

DTYPES = ("bfloat16", "float16", "float32", "float64")

MODALITIES: tuple[Literal["vision", "projector", "audio"], ...] = ("vision", "projector", "audio")
"""The fields of a recipe that say how what is not the language model is merged."""

Reader: TypeAlias = Callable[[Any, str], Any]
"""Reads a value of plain data, given its address in the file; raises a RecipeError."""

_MOST_BLOCKS = 1_000_000

VALUES = Values(RecipeError)
"""Checks the types of plain values."""


def number(value: float | int | bool) -> float:
    """Return a value as a canonical float (-0.0 is 0.0, True 1.0); RecipeError: not finite."""
    try:
        result = float(value) + 0.0
    except OverflowError:  # a whole number of more than 308 digits
        result = math.inf
    if not math.isfinite(result):
        raise RecipeError(f"A recipe holds the number {shown(value)}; every number must be finite.")
    return result


def knob_at(knob: Knob, tensor_name: str) -> float:
    """Return the value of a knob for a tensor; RecipeError: no pattern of it matches the name."""
    if isinstance(knob, float):
        return knob
    for pattern, value in knob:
        if pattern == "*" or pattern in tensor_name:
            return value
    raise RecipeError(
        f"A knob has no value for tensor {tensor_name!r}: its filters are "
        f"{[pattern for pattern, _ in knob]}; add a default value, with the filter '*'."
    )


def _canonical_knobs(knobs: Mapping[str, Any]) -> dict[str, Knob]:
    return {
        name: number(value)
        if isinstance(value, (int, float))
        else tuple((str(pattern), number(item)) for pattern, item in value)
        for name, value in sorted(knobs.items())
    }


@dataclass(frozen=True)
class Source:
    """One source of a merge: a parent as in the search file, and its own knobs.

    Attributes:
        layer: block index in the parent (0-based), or None for tensors outside of the blocks.
    """

    parent: str
    layer: int | None = None
    knobs: Mapping[str, Knob] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "knobs", _canonical_knobs(self.knobs))


@dataclass(frozen=True)
class Layer:
    """How one block of the merged model, its embeddings or its head is made.

    Attributes:
        base: source that task vectors are measured from, or None if the method uses none.
        knobs: knobs of the merge as a whole (`t`, `lambda`, `normalize`, ...).
        scale: factor on the hidden state that enters this block; 1 changes nothing.
    """

    method: str
    sources: tuple[Source, ...]
    base: Source | None = None
    knobs: Mapping[str, Knob] = field(default_factory=dict)
    scale: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "sources", tuple(self.sources))
        object.__setattr__(self, "knobs", _canonical_knobs(self.knobs))
        object.__setattr__(self, "scale", number(self.scale))

    @property
    def inputs(self) -> tuple[Source, ...]:
        """The sources, and the base if there is one."""
        return (*self.sources, self.base) if self.base else self.sources


@dataclass(frozen=True)
class Pin:
    """The fingerprint of a parent when the recipe was written; "": any content is taken."""

    sha256: str = ""


def read_fields(
    data: Any, where: str, readers: Mapping[str, Reader], needed: Iterable[str] = ()
) -> dict[str, Any]:
    """Return the fields of a part of a recipe in a mapping, each read by the reader of its key."""
    content = VALUES.mapping(data, where, tuple(readers))
    for key in needed:
        if key not in content:
            raise RecipeError(f"The key `{key}` is missing in `{where}`.")
    before = "" if where == "recipe" else f"{where}."
    return {
        key: read(content[key], before + key) for key, read in readers.items() if key in content
    }


def each(read: Reader) -> Reader:
    """Return what reads a list."""
    return lambda data, where: tuple(
        read(item, f"{where}[{i}]") for i, item in enumerate(VALUES.items(data, where))
    )


def by_name(read: Reader) -> Reader:
    """Return what reads a mapping from any names."""
    return lambda data, where: {
        name: read(item, f"{where}.{name}") for name, item in VALUES.mapping(data, where).items()
    }


def if_any(read: Reader) -> Reader:
    """Return what reads a value that may be null."""
    return lambda data, where: None if data is None else read(data, where)


def read_parent(data: Any, where: str) -> str:
    """Read the reference of a parent."""
    return VALUES.text(data, where, "a parent reference")


def read_option(data: Any, where: str) -> str:
    """Read the value of one of a recipe's options, as text."""
    if not isinstance(data, (str, int, float)):
        raise VALUES.wrong(data, where, "text or a number")
    return str(data)


def _sha256(data: Any, where: str) -> str:
    if not re.fullmatch("[0-9a-f]{64}", str(data)):
        raise VALUES.wrong(data, where, "64 hexadecimal digits")
    return str(data)


def _knob(data: Any, where: str) -> Knob:
    if not isinstance(data, list):
        return VALUES.real(data, where, "a number, or a list of [part of a tensor's name, number]")
    pairs = [VALUES.items(item, f"{where}[{i}]") for i, item in enumerate(data)]
    for i, pair in enumerate(pairs):
        if len(pair) != 2 or not isinstance(pair[0], str):
            raise VALUES.wrong(pair, f"{where}[{i}]", "[part of a tensor's name, number]")
    return tuple(
        (pair[0], VALUES.real(pair[1], f"{where}[{i}][1]")) for i, pair in enumerate(pairs)
    )


def _source(data: Any, where: str) -> Source:
    return Source(**read_fields(data, where, _SOURCE, ("parent",)))


def read_layer(data: Any, where: str) -> Layer:
    """Read a layer."""
    return Layer(**{"sources": (), **read_fields(data, where, _LAYER, ("method",))})


def read_pin(data: Any, where: str) -> Pin:
    """Read a pin."""
    return Pin(**read_fields(data, where, _PIN))


_SOURCE: Mapping[str, Reader] = {
    "parent": read_parent,
    "layer": if_any(lambda data, where: VALUES.whole(data, where, most=_MOST_BLOCKS)),
    "knobs": by_name(_knob),
}
_LAYER: Mapping[str, Reader] = {
    "method": VALUES.text,
    "sources": each(_source),
    "base": if_any(_source),
    "knobs": by_name(_knob),
    "scale": VALUES.real,
}
_PIN: Mapping[str, Reader] = {"sha256": _sha256}
