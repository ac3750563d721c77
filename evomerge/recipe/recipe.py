"""One merged model as a value, its plain form, and its digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

from evomerge.errors import RecipeError, did_you_mean
from evomerge.parsing.yaml import yaml_mapping, yaml_text
from evomerge.recipe import layer as parts
from evomerge.recipe.layer import DTYPES, MODALITIES, VALUES, Layer, Pin, Reader, Source


@dataclass(frozen=True)
class Recipe:
    """One merged model.

    Attributes:
        host: parent that gives config, tokenizer (if it is `base`), and what is not merged.
        layers: block stack of the host (`model.layers`) -> its blocks in order. The blocks of a
            stack that is not named are the host's.
        embeddings: how the tensors before the blocks are made.
        head: how the tensors after the blocks are made: final norm, output head.
        dtype: dtype of the written weights. Merges compute in float32 and round once.
        tokenizer: `base` (the host's), `union` (the tokens of all parents), or a parent reference.
        seed: seed of the random methods (DARE, DELLA).
        options: rarely used options by name (`chat_template`, `pad_to_multiple_of`, ...).
        vocabulary: parents whose tokens make up the vocabulary, in order, for a `tokenizer` other
            than `base`; empty: those that the recipe merges. All candidates of a search have one.
        vision: how the tensors of a vision tower are made, except blocks that `layers` names; None:
            they are the host's.
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
    vision: Layer | None = None
    projector: Layer | None = None
    audio: Layer | None = None
    pins: Mapping[str, Pin] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in {
            "vocabulary": tuple(self.vocabulary),
            "pins": dict(sorted(self.pins.items())),
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
        """Every parent that the recipe names, each once, the host first."""
        named = (source.parent for source in self.every_source())
        return tuple(dict.fromkeys((self.host, *named, *self.vocabulary)))

    def every_source(self) -> Iterator[Source]:
        """Yield the sources of every layer, bases included."""
        for layer in self.every_layer():
            yield from layer.inputs

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as plain values, without fields at their default."""
        return dict(_plain(self))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Recipe:
        """Return the recipe that `to_dict` turned into `data`; RecipeError: it is none."""
        required = ("host", "embeddings", "head")
        return cls(**{"layers": {}, **parts.read_fields(data, "recipe", _RECIPE, required)})

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
        """Whether two recipes build the same model."""
        return isinstance(other, Recipe) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def to_yaml(self) -> str:
        """Return the recipe as YAML that people can read."""
        return yaml_text(self.to_dict(), width=110, flow=None)

    @classmethod
    def from_yaml(cls, text: str) -> Recipe:
        """Return the recipe in a YAML text; RecipeError: it is none."""
        return cls.from_dict(yaml_mapping(text, "The recipe", "a recipe", RecipeError))


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
    kind: tuple((item.name, item.default) for item in fields(kind))
    for kind in (Source, Layer, Recipe, Pin)
}
"""Names and defaults of the fields. A recipe has hundreds of parts, so they are looked up once."""

_SIMPLE = frozenset((float, int, str))

_RECIPE: Mapping[str, Reader] = {
    "host": parts.read_parent,
    "layers": parts.by_name(parts.each(parts.read_layer)),
    "embeddings": parts.read_layer,
    "head": parts.read_layer,
    **dict.fromkeys(MODALITIES, parts.if_any(parts.read_layer)),
    "dtype": VALUES.text,
    "tokenizer": VALUES.text,
    "seed": VALUES.whole,
    "options": parts.by_name(parts.read_option),
    "vocabulary": parts.each(parts.read_parent),
    "pins": parts.by_name(parts.read_pin),
}
"""Key of a part of a recipe -> what reads its value."""
