"""A recipe: the complete description of one merged model.

For every block of the merged model, and for the tensors outside of the blocks, a recipe names the
merge method, the source tensors and the value of every knob. Two equal recipes build bit-equal
models. Recipes are canonical: 1 and 1.0 are the same number, as are 0.0 and -0.0; mappings are
sorted. Fields at their default are not written, so that digests stay the same when a field is added
to the format.

In YAML::

    host: zoo:base              # gives config, tokenizer and every tensor that is not merged
    dtype: bfloat16
    embeddings: {method: ..., sources: [...], base: ..., knobs: {...}}
    layers:
      model.layers: [{...}, {...}, ...]                               # one for each block, in order
    head: {...}                                                       # final norm, head
    vision: {...}              # the vision tower; left out: the host's, as are `projector`, `audio`
    members: {member:12: {host: ..., ...}}      # recipes of the members that sources name, if any
    pins: {zoo:base: {sha256: ...}, ...}     # the content of the parents; another one is refused
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Literal, TypeAlias

from evomerge.errors import RecipeError, did_you_mean
from evomerge.parsing.values import Values, shown
from evomerge.parsing.yaml import yaml_mapping, yaml_text

Knob: TypeAlias = float | tuple[tuple[str, float], ...]
"""One number, or (substring of a tensor name, number) pairs.

The first pair whose substring is in the tensor's name applies; `"*"` matches every name.
"""

DTYPES = ("bfloat16", "float16", "float32", "float64")

MEMBER = "member:"
"""Prefix of the name of a member: an earlier candidate of a run that is the source of another."""

MODALITIES: tuple[Literal["vision", "projector", "audio"], ...] = ("vision", "projector", "audio")
"""The fields of a recipe that say how what is not the language model is merged."""

Reader: TypeAlias = Callable[[Any, str], Any]
"""Reads a value of plain data, given its address in the file; raises a RecipeError."""

_MOST_BLOCKS = 1_000_000

_VALUES = Values(RecipeError)


def number(value: float | int | bool) -> float:
    """Return a value as a canonical float (-0.0 becomes 0.0, flags become 0.0 or 1.0).

    Raises:
        RecipeError: the number is not finite.
    """
    try:
        result = float(value) + 0.0
    except OverflowError:  # a whole number of more than 308 digits
        result = math.inf
    if not math.isfinite(result):
        raise RecipeError(f"A recipe holds the number {shown(value)}; every number must be finite.")
    return result


def knob_at(knob: Knob, tensor_name: str) -> float:
    """Return the value of a knob for one tensor.

    Raises:
        RecipeError: no pattern of the knob matches the tensor.
    """
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
    """One source of a merge: a parent and, inside of a block stack, one of its blocks.

    Attributes:
        parent: reference of the parent as in the search file (`zoo:maths`, `org/name@rev`, ...), or
            `member:NUMBER` for one of the recipe's members.
        layer: block index in the parent (0-based), or None for tensors outside of the blocks.
        knobs: knobs of this source (`weight`, `density`, ...).
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
        method: name of a merge method.
        sources: the sources that are merged, in order.
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
    """What a parent was when the recipe was written. Another content is refused.

    Attributes:
        sha256: digest of its content: its fingerprint; of a parent `merge:FILE.yaml`, the digest of
            its recipe and of the content of its parents. "": any content is taken.
        recipe: of a parent `run:DIR` or `merge:FILE.yaml`, the first 16 digits of the digest of its
            recipe. This candidate of the run is built, even if the run has found a better one.
        runs: of a parent `merge:FILE.yaml` that is made from runs, the same for each of these:
            `run:DIR` with an absolute path -> digits.
    """

    sha256: str = ""
    recipe: str = ""
    runs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """One merged model.

    Attributes:
        host: parent that gives the config, the generation config, the tokenizer (if `tokenizer` is
            `base`) and every tensor that is not merged (a vision tower, for example), bit for bit.
        layers: block stack of the host (`model.layers`) -> its blocks in order. The blocks of a
            stack that is not named are the host's.
        embeddings: how the tensors before the blocks are made.
        head: how the tensors after the blocks are made: final norm, output head.
        dtype: dtype of the written weights. Merges compute in float32 and round once.
        tokenizer: `base` (the host's), `union` (the tokens of all parents), or a parent reference.
        seed: seed of the random methods (DARE, DELLA).
        options: rarely used options by name (`chat_template`, `pad_to_multiple_of`, ...).
        vocabulary: parents whose tokens make up the vocabulary, in order, for a `tokenizer` other
            than `base`. Empty: the parents that the recipe merges. A search sets it, so that all
            candidates have the same vocabulary whichever parents they merge.
        members: name (`member:NUMBER`) -> recipe, of each member that a source names. A member is
            built first, and rounded to its dtype; then its weights are read like a parent's.
        vision: how the tensors of a vision tower are made, those of its blocks too, except blocks
            that `layers` names. None: they are the host's.
        projector: the same for what joins a tower to the language model.
        audio: the same for an audio tower.
        pins: parent -> what it was when the recipe was written. They are no part of the canonical
            form: recipes that differ only in pins are equal, and have one digest.
    """

    host: str
    layers: Mapping[str, tuple[Layer, ...]]
    embeddings: Layer
    head: Layer
    dtype: str = "bfloat16"
    tokenizer: str = "base"
    seed: int = 0
    options: Mapping[str, str] = field(default_factory=dict)
    vocabulary: tuple[str, ...] = ()
    members: Mapping[str, Recipe] = field(default_factory=dict)
    vision: Layer | None = None
    projector: Layer | None = None
    audio: Layer | None = None
    pins: Mapping[str, Pin] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in {
            "vocabulary": tuple(self.vocabulary),
            "pins": dict(sorted(self.pins.items())),
            "members": {name: self.members[name] for name in sorted(self.members)},
            "layers": {name: tuple(self.layers[name]) for name in sorted(self.layers)},
            "options": {name: str(self.options[name]) for name in sorted(self.options)},
        }.items():
            object.__setattr__(self, name, value)
        if self.dtype not in DTYPES:
            raise RecipeError(
                f"dtype is {self.dtype!r}; allowed are {', '.join(DTYPES)}."
                f"{did_you_mean(self.dtype, DTYPES)}"
            )

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
        found = {name: getattr(self, name) for name in MODALITIES}
        return {name: layer for name, layer in found.items() if layer is not None}

    @property
    def parents(self) -> tuple[str, ...]:
        """Every parent that the recipe or one of its members names, each once, the host first."""
        seen = {self.host: None}
        for recipe in (self, *self.lineage.values()):
            for source in recipe.every_source():
                if source.parent not in recipe.members:
                    seen.setdefault(source.parent)
        return tuple(seen | dict.fromkeys(self.vocabulary))

    def every_source(self) -> Iterator[Source]:
        """Yield the sources of every layer, bases included."""
        for layer in self.every_layer():
            yield from layer.inputs

    @property
    def lineage(self) -> dict[str, Recipe]:
        """All members that it takes to build the recipe: its own, theirs, and so on.

        The members of a member come before it.
        """
        found: dict[str, Recipe] = {}
        stack = [*self.members.items()][::-1]
        while stack:
            name, recipe = stack[-1]
            missing = [item for item in recipe.members.items() if item[0] not in found]
            if missing and name not in found:
                stack += missing[::-1]
            else:
                found.setdefault(name, recipe)
                stack.pop()
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as plain values, without fields at their default.

        `members` has the whole lineage, so that the recipe can be built from these values alone.
        """
        plain = dict(_plain(self))
        if self.members:
            plain["members"] = {name: dict(_plain(item)) for name, item in self.lineage.items()}
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Recipe:
        """Return the recipe that `to_dict` turned into `data`; RecipeError: it is none."""
        given = _VALUES.mapping(data, "recipe")
        made: dict[str, Recipe] = {}
        for name, item in _VALUES.mapping(given.get("members", {}), "members").items():
            made[name] = _recipe(item, f"members.{name}", made)
        return _recipe(given, "recipe", made)

    def canonical(self) -> str:
        """Return the canonical JSON text of the recipe, with the digests of members."""
        plain = dict(_plain(self))
        plain.pop("pins", None)
        if self.members:
            plain["members"] = {name: item.digest for name, item in self.members.items()}
        return json.dumps(plain, sort_keys=True, separators=(",", ":"))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, as 64 hexadecimal digits."""
        if any("digest" not in member.__dict__ for member in self.members.values()):
            for member in self.lineage.values():  # ancestors first, so that no call is deep
                _ = member.digest
        return hashlib.sha256(self.canonical().encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        """Whether two recipes build the same model; to compare all their ancestors takes long."""
        return isinstance(other, Recipe) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the lineage as a list; members of members would be nested too deep."""
        every = [*self.lineage.items(), ("", self)]
        return _joined, ([(name, _fields(item), tuple(item.members)) for name, item in every],)

    def to_yaml(self) -> str:
        """Return the recipe as YAML that people can read."""
        return yaml_text(self.to_dict(), width=110, flow=None)

    @classmethod
    def from_yaml(cls, text: str) -> Recipe:
        """Return the recipe in a YAML text; RecipeError: it is none."""
        return cls.from_dict(yaml_mapping(text, "The recipe", "a recipe", RecipeError))


def _recipe(data: Any, where: str, made: Mapping[str, Recipe]) -> Recipe:
    """Return the recipe of plain values, except that members are taken from `made`."""
    readers = {**_RECIPE}
    if where != "recipe":
        del readers["pins"]  # those of the recipe are for its members too
    content = {"layers": {}, **_read(data, where, readers, ("host", "embeddings", "head"))}
    recipe = Recipe(**content | {"members": {}})
    named = {item.parent for item in recipe.every_source() if item.parent.startswith(MEMBER)}
    for name in sorted(named - made.keys()):
        raise RecipeError(
            f"`{where}` names {name!r}, but `members` has no recipe of it before this one; add it."
        )
    return replace(recipe, members={name: made[name] for name in named})


def _fields(recipe: Recipe) -> dict[str, Any]:
    """Return all fields but the members."""
    names = (item.name for item in fields(Recipe) if item.name != "members")
    return {name: getattr(recipe, name) for name in names}


def _joined(parts: Iterable[tuple[str, Mapping[str, Any], Iterable[str]]]) -> Recipe:
    """Return the last recipe of a list in which members come first; see `Recipe.__reduce__`."""
    made: dict[str, Recipe] = {}
    for name, content, members in parts:
        made[name] = Recipe(**content, members={item: made[item] for item in members})
    return made[""]


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind is dict:
        return {
            name: item if type(item) in _SIMPLE else _plain(item) for name, item in value.items()
        }
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
    kind: tuple((item.name, item.default) for item in fields(kind) if item.name != "members")
    for kind in (Source, Layer, Recipe, Pin)
}
"""Names and defaults of the fields. A recipe has hundreds of parts, so they are looked up once."""

_SIMPLE = frozenset((float, int, str))


def _read(
    data: Any, where: str, readers: Mapping[str, Reader], needed: Iterable[str] = ()
) -> dict[str, Any]:
    """Return the fields of a part of a recipe in a mapping, each read by the reader of its key."""
    content = _VALUES.mapping(data, where, tuple(readers))
    for key in needed:
        if key not in content:
            raise RecipeError(f"The key `{key}` is missing in `{where}`.")
    prefix = "" if where == "recipe" else f"{where}."
    return {
        key: read(content[key], prefix + key) for key, read in readers.items() if key in content
    }


def _each(read: Reader) -> Reader:
    """Return what reads a list."""
    return lambda data, where: tuple(
        read(item, f"{where}[{i}]") for i, item in enumerate(_VALUES.items(data, where))
    )


def _by_name(read: Reader) -> Reader:
    """Return what reads a mapping from any names."""
    return lambda data, where: {
        name: read(item, f"{where}.{name}") for name, item in _VALUES.mapping(data, where).items()
    }


def _if_any(read: Reader) -> Reader:
    """Return what reads a value that may be null."""
    return lambda data, where: None if data is None else read(data, where)


def _parent(data: Any, where: str) -> str:
    return _VALUES.text(data, where, "a parent reference")


def _option(data: Any, where: str) -> str:
    if not isinstance(data, (str, int, float)):
        raise _VALUES.wrong(data, where, "text or a number")
    return str(data)


def _digits(count: int) -> Reader:
    """Return what reads the hexadecimal digits of a digest; they may be the name of a folder."""

    def read(data: Any, where: str) -> str:
        if not isinstance(data, str) or not re.fullmatch(f"[0-9a-f]{{{count}}}", data):
            raise _VALUES.wrong(data, where, f"{count} hexadecimal digits")
        return data

    return read


def _knob(data: Any, where: str) -> Knob:
    if not isinstance(data, list):
        return _VALUES.real(data, where, "a number, or a list of [part of a tensor's name, number]")
    pairs = [_VALUES.items(item, f"{where}[{i}]") for i, item in enumerate(data)]
    for i, pair in enumerate(pairs):
        if len(pair) != 2 or not isinstance(pair[0], str):
            raise _VALUES.wrong(pair, f"{where}[{i}]", "[part of a tensor's name, number]")
    return tuple(
        (pair[0], _VALUES.real(pair[1], f"{where}[{i}][1]")) for i, pair in enumerate(pairs)
    )


def _source(data: Any, where: str) -> Source:
    return Source(**_read(data, where, _SOURCE, ("parent",)))


def _layer(data: Any, where: str) -> Layer:
    return Layer(**{"sources": (), **_read(data, where, _LAYER, ("method",))})


def _pin(data: Any, where: str) -> Pin:
    return Pin(**_read(data, where, _PIN))


_SOURCE: Mapping[str, Reader] = {
    "parent": _parent,
    "layer": _if_any(lambda data, where: _VALUES.whole(data, where, most=_MOST_BLOCKS)),
    "knobs": _by_name(_knob),
}
_LAYER: Mapping[str, Reader] = {
    "method": _VALUES.text,
    "sources": _each(_source),
    "base": _if_any(_source),
    "knobs": _by_name(_knob),
    "scale": _VALUES.real,
}
_PIN: Mapping[str, Reader] = {
    "sha256": _digits(64),
    "recipe": _digits(16),
    "runs": _by_name(_digits(16)),
}
_RECIPE: Mapping[str, Reader] = {
    "host": _parent,
    "layers": _by_name(_each(_layer)),
    "embeddings": _layer,
    "head": _layer,
    **dict.fromkeys(MODALITIES, _if_any(_layer)),
    "dtype": _VALUES.text,
    "tokenizer": _VALUES.text,
    "seed": _VALUES.whole,
    "options": _by_name(_option),
    "vocabulary": _each(_parent),
    "pins": _by_name(_pin),
    "members": lambda data, where: None,
}
"""Key of a part of a recipe -> what reads its value."""
