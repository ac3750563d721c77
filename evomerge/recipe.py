"""A recipe: the complete description of one merged model.

For every block, and for the tensors outside of the blocks, it names the merge method, the source
tensors and the value of every knob. Equal recipes build bit-equal models. Recipes are canonical:
1 and 1.0 are the same number, as are 0.0 and -0.0; mappings are sorted. Fields at their default are
not written, so that digests stay the same when the format gets a further field::

    host: zoo:base              # gives config, tokenizer and every tensor that is not merged
    embeddings: {method: ..., sources: [...], base: ..., knobs: {...}}
    layers: {model.layers: [{...}, {...}, ...]}                       # one for each block, in order
    head: {...}                                                       # final norm, head
    vision: {...}              # the vision tower; left out: the host's, as are `projector`, `audio`
    pins: {zoo:base: {sha256: ...}, ...}     # the content of the parents; another one is refused
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field, fields
from functools import cached_property, partial
from typing import Any, Literal, TypeAlias, cast

from evomerge.errors import RecipeError, among
from evomerge.parsing.texts import yaml_mapping, yaml_text
from evomerge.parsing.values import Values, shown

KnobValue: TypeAlias = float | tuple[tuple[str, float], ...]
"""One number, or (substring of a tensor name, number) pairs: the first whose substring is in the
tensor's name applies; `"*"` matches every name."""

Dtype: TypeAlias = Literal["bfloat16", "float16", "float32", "float64"]

DTYPES = dict(bfloat16="BF16", float16="F16", float32="F32", float64="F64")  # noqa: C408
"""dtype of a merged model -> the same dtype as safetensors headers spell it."""

MODALITIES: tuple[Literal["vision", "projector", "audio"], ...] = ("vision", "projector", "audio")
"""The fields of a recipe that say how what is not the language model is merged."""


def number(value: float | int | bool) -> float:
    """Return a value as a canonical float (-0.0 is 0.0, True 1.0); RecipeError: not finite."""
    try:
        result = float(value) + 0.0
    except OverflowError:  # a whole number of more than 308 digits
        result = math.inf
    if not math.isfinite(result):
        raise RecipeError(f"A recipe holds the number {shown(value)}; every number must be finite.")
    return result


def knob_at(knob: KnobValue, tensor_name: str) -> float:
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


def _canonical(knobs: Mapping[str, Any]) -> dict[str, KnobValue]:
    return {
        name: number(value)
        if isinstance(value, (int, float))
        else tuple((str(pattern), number(item)) for pattern, item in value)
        for name, value in sorted(knobs.items())
    }


@dataclass(frozen=True)
class Source:
    """One source of a merge.

    Attributes:
        parent: the model, as in the search file.
        layer: block index in the parent (0-based), or None for tensors outside of the blocks.
        knobs: knobs of this source (`weight`, `density`, ...).
    """

    parent: str
    layer: int | None = None
    knobs: Mapping[str, KnobValue] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "knobs", _canonical(self.knobs))


@dataclass(frozen=True)
class Layer:
    """How one block of the merged model, its embeddings or its head is made.

    Attributes:
        method: name of the merge method; `evomerge list methods` lists them.
        sources: what is merged, in order.
        base: source that task vectors are measured from, or None if the method uses none.
        knobs: knobs of the merge as a whole (`t`, `lambda`, `normalize`, ...).
        scale: factor on the hidden state that enters this block; 1 changes nothing.
    """

    method: str
    sources: tuple[Source, ...]
    base: Source | None = None
    knobs: Mapping[str, KnobValue] = field(default_factory=dict)
    scale: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sources", tuple(self.sources))
        object.__setattr__(self, "knobs", _canonical(self.knobs))
        object.__setattr__(self, "scale", number(self.scale))

    @property
    def inputs(self) -> tuple[Source, ...]:
        """The sources, and the base if there is one."""
        return (*self.sources, self.base) if self.base else self.sources


@dataclass(frozen=True)
class Pin:
    """The SHA-256 of a parent when the recipe was written; empty: any content is taken."""

    sha256: str = ""


@dataclass(frozen=True)
class Recipe:
    """One merged model.

    Attributes:
        host: parent that gives config, tokenizer (if it is `base`), and what is not merged.
        layers: block stack (`model.layers`) -> its blocks, in order; other stacks are the host's.
        embeddings: how the tensors before the blocks are made.
        head: how the tensors after the blocks are made: final norm, output head.
        dtype: dtype of the written weights. Merges compute in float32 and round once.
        tokenizer: `base` (the host's), `union` (the tokens of all parents), or a parent reference.
        seed: seed of the random methods (DARE, DELLA).
        options: rarely used options by name (`chat_template`, `pad_to_multiple_of`, ...).
        vocabulary: parents whose tokens make up the vocabulary, in order, for a `tokenizer` other
            than `base`; empty: those that the recipe merges. All candidates of a search have one.
        vision: how a vision tower is made, except blocks that `layers` names; None: the host's.
        projector: the same for what joins a tower to the language model.
        audio: the same for an audio tower.
        pins: parent -> what it was when the recipe was written. They are no part of the canonical
            form: recipes that differ only in pins are equal, and have one digest.
    """

    host: str
    layers: Mapping[str, tuple[Layer, ...]]
    embeddings: Layer
    head: Layer
    _: KW_ONLY
    dtype: str = "bfloat16"
    tokenizer: str = "base"
    seed: int = 0
    options: Mapping[str, str] = field(default_factory=dict)
    vocabulary: tuple[str, ...] = ()
    vision: Layer | None = None
    projector: Layer | None = None
    audio: Layer | None = None
    pins: Mapping[str, Pin] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", {k: tuple(v) for k, v in sorted(self.layers.items())})
        object.__setattr__(self, "options", {k: str(v) for k, v in sorted(self.options.items())})
        object.__setattr__(self, "vocabulary", tuple(self.vocabulary))
        object.__setattr__(self, "pins", dict(sorted(self.pins.items())))
        if self.dtype not in DTYPES:
            raise RecipeError(f"dtype is {self.dtype!r}; allowed are {among(self.dtype, DTYPES)}")

    def every_layer(self) -> Iterator[Layer]:
        """Yield `embeddings`, all blocks of all stacks, `head`, the merged modalities."""
        yield self.embeddings
        for stack in self.layers.values():
            yield from stack
        yield self.head
        yield from self.modalities.values()

    @property
    def modalities(self) -> dict[str, Layer]:
        """How each of `MODALITIES` is made, without those that are the host's."""
        return {name: layer for name in MODALITIES if (layer := getattr(self, name)) is not None}

    @property
    def parents(self) -> tuple[str, ...]:
        """Every parent that the recipe names, each once, the host first."""
        parents = (source.parent for source in self.every_source())
        return tuple(dict.fromkeys((self.host, *parents, *self.vocabulary)))

    def every_source(self) -> Iterator[Source]:
        """Return the sources of every layer, bases included."""
        return (source for layer in self.every_layer() for source in layer.inputs)

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as plain values, without fields at their default."""
        return dict(_plain(self))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Recipe:
        """Return the recipe that `to_dict` turned into `data`; RecipeError: it is none."""
        return cast(Recipe, _recipe(data, "recipe"))

    def canonical(self) -> str:
        """Return the canonical JSON text of the recipe."""
        plain = self.to_dict()
        plain.pop("pins", None)
        return json.dumps(plain, sort_keys=True, separators=(",", ":"))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, as 64 hexadecimal digits."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def to_yaml(self) -> str:
        """Return the recipe as YAML that people can read."""
        return yaml_text(self.to_dict(), flow=None)

    @classmethod
    def from_yaml(cls, text: str) -> Recipe:
        """Return the recipe in a YAML text; RecipeError: it is none."""
        return cls.from_dict(yaml_mapping(text, "The recipe", "a recipe", RecipeError))


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind is dict:
        return {k: item if type(item) in _SIMPLE else _plain(item) for k, item in value.items()}
    if kind is tuple or kind is list:
        return [_plain(item) for item in value]
    if kind in _FIELDS:
        plain: dict[str, Any] = {}
        for name, default in _FIELDS[kind]:
            content = getattr(value, name)
            empty = not content and content in (None, {}, ()) and name != "sources"
            if not empty and content != default:
                plain[name] = content if type(content) in _SIMPLE else _plain(content)
        return plain
    return value


_FIELDS: Mapping[type, tuple[tuple[str, Any], ...]] = {
    kind: tuple((item.name, item.default) for item in fields(kind))
    for kind in (Source, Layer, Recipe, Pin)
}
"""Names and defaults of the fields. A recipe has hundreds of parts, so they are looked up once."""
_SIMPLE = frozenset((float, int, str))

Reader: TypeAlias = Callable[[Any, str], Any]
"""Reads a value of plain data, given its address in the file; raises a RecipeError."""

_VALUES = Values(RecipeError)


def _part(kind: Callable[..., Any], required: str, **readers: Reader) -> Reader:
    """Return what reads a part of a recipe from a mapping, each key by its own reader."""
    needed, allowed = required.split(), tuple(readers)

    def part(data: Any, where: str) -> Any:
        content = _VALUES.mapping(data, where, allowed)
        for key in needed:
            if key not in content:
                raise RecipeError(f"The key `{key}` is missing in `{where}`.")
        prefix = "" if where == "recipe" else f"{where}."
        return kind(**{k: readers[k](content[k], prefix + k) for k in allowed if k in content})

    return part


def _each(read: Reader) -> Reader:
    return lambda data, where: tuple(
        read(item, f"{where}[{i}]") for i, item in enumerate(_VALUES.items(data, where))
    )


def _by_name(read: Reader) -> Reader:
    return lambda data, where: {
        name: read(item, f"{where}.{name}") for name, item in _VALUES.mapping(data, where).items()
    }


def _or_null(read: Reader) -> Reader:
    return lambda data, where: None if data is None else read(data, where)


def _option(data: Any, where: str) -> str:
    if not isinstance(data, (str, int, float)):
        raise _VALUES.wrong(data, where, "text or a number")
    return str(data)


def _sha256(data: Any, where: str) -> str:
    if not re.fullmatch("[0-9a-f]{64}", str(data)):
        raise _VALUES.wrong(data, where, "64 hexadecimal digits")
    return str(data)


def _knob(data: Any, where: str) -> KnobValue:
    pair = "[part of a tensor's name, number]"
    if not isinstance(data, list):
        return _VALUES.real(data, where, f"a number, or a list of {pair}")
    pairs = [_VALUES.items(item, f"{where}[{i}]") for i, item in enumerate(data)]
    for i, item in enumerate(pairs):
        if len(item) != 2 or not isinstance(item[0], str):
            raise _VALUES.wrong(item, f"{where}[{i}]", pair)
    return tuple((k, _VALUES.real(v, f"{where}[{i}][1]")) for i, (k, v) in enumerate(pairs))


_parent = partial(_VALUES.text, kind="a parent reference")
_source = _part(
    Source,
    required="parent",
    parent=_parent,
    layer=_or_null(partial(_VALUES.whole, most=1_000_000)),
    knobs=_by_name(_knob),
)
_layer = _part(
    partial(Layer, sources=()),
    required="method",
    method=_VALUES.text,
    sources=_each(_source),
    base=_or_null(_source),
    knobs=_by_name(_knob),
    scale=_VALUES.real,
)
_recipe = _part(
    partial(Recipe, layers={}),
    required="host embeddings head",
    host=_parent,
    layers=_by_name(_each(_layer)),
    embeddings=_layer,
    head=_layer,
    **dict.fromkeys(MODALITIES, _or_null(_layer)),
    dtype=_VALUES.text,
    tokenizer=_VALUES.text,
    seed=_VALUES.whole,
    options=_by_name(_option),
    vocabulary=_each(_parent),
    pins=_by_name(_part(Pin, "", sha256=_sha256)),
)
