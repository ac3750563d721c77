"""A recipe: one merged model, fully resolved, with no free number left.

A recipe names, for every block of the merged model and for the tensors outside of the blocks, the
merge method, the source tensors and every knob. Two equal recipes build bit-equal models: numbers
are canonical (1 and 1.0, 0.0 and -0.0 are one number), mappings are sorted, and fields at their
default are left out, so that `digest` stays the same when the format grows.

In YAML::

    host: zoo:base              # gives config, tokenizer and every tensor that nothing merges
    dtype: bfloat16
    before: {method: ..., sources: [...], base: ..., knobs: {...}}    # embeddings
    layers:
      model.layers: [{...}, {...}, ...]                               # one entry a block, in order
    after: {...}                                                      # final norm, head
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, TypeAlias

import yaml

from evomerge.errors import RecipeError, did_you_mean

Knob: TypeAlias = float | tuple[tuple[str, float], ...]
"""A number, or (substring of a tensor name, number) pairs tried in order; `"*"` matches all."""

DTYPES = ("bfloat16", "float16", "float32", "float64")


def number(value: float | int | bool) -> float:
    """Return the one float that stands for `value` (-0.0 becomes 0.0; flags become 0.0 or 1.0).

    Raises:
        RecipeError: the number is not finite.
    """
    result = float(value) + 0.0
    if result != result or result in (float("inf"), float("-inf")):
        raise RecipeError(f"A recipe holds the number {value!r}; every number must be finite.")
    return result


def knob_at(knob: Knob, tensor_name: str) -> float:
    """Return the value a knob has for one tensor.

    Raises:
        RecipeError: no pattern of the knob matches the tensor.
    """
    if isinstance(knob, float):
        return knob
    for pattern, value in knob:
        if pattern == "*" or pattern in tensor_name:
            return value
    raise RecipeError(
        f"No value of a knob applies to tensor {tensor_name!r}: the filters are "
        f"{[pattern for pattern, _ in knob]}; add a default without a filter."
    )


def _canonical_knob(value: Any) -> Knob:
    if isinstance(value, (int, float)):
        return number(value)
    return tuple((str(pattern), number(item)) for pattern, item in value)


def _canonical_knobs(knobs: Mapping[str, Any]) -> dict[str, Knob]:
    return {name: _canonical_knob(knobs[name]) for name in sorted(knobs)}


@dataclass(frozen=True)
class Source:
    """A place weights come from: a parent and, inside a block stack, the index of its block.

    Attributes:
        parent: reference of the parent as in the search file (`zoo:maths`, `org/name@rev`, ...).
        layer: block index in the parent (0-based), or None for tensors outside of the blocks.
        knobs: the parent's own knobs in this merge (`weight`, `density`, ...).
    """

    parent: str
    layer: int | None = None
    knobs: Mapping[str, Knob] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "knobs", _canonical_knobs(self.knobs))


@dataclass(frozen=True)
class Layer:
    """How one block, or one group of tensors outside of the blocks, is made.

    Attributes:
        method: name of a merge method.
        sources: what is merged, in order.
        base: what task vectors are measured from, where the method uses one.
        knobs: the knobs of the merge as a whole (`t`, `lambda`, `normalize`, ...).
        scale: factor on the hidden state that enters this block (layer routing); 1 is plain.
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


@dataclass(frozen=True)
class Recipe:
    """One merged model.

    Attributes:
        host: parent that gives config, generation config, tokenizer (unless `tokenizer` says
            otherwise) and, bit for bit, every tensor that no layer makes (a vision tower, say).
        layers: block stack of the host (`model.layers`) -> its blocks in order. A stack that is
            not named comes from the host as it is.
        before: tensors outside of the blocks on the input side (embeddings).
        after: tensors outside of the blocks on the output side (final norm, head).
        dtype: dtype of the written weights; arithmetic is in float32 and rounds once.
        tokenizer: `base` (the host's), `union`, or a parent reference.
        seed: seed of the random methods (DARE, DELLA).
        options: rare switches by name (`chat_template`, `pad_to_multiple_of`, ...), as strings.
        vocabulary: parents whose tokens a `union` unites and a named tokenizer is matched with,
            in order, where they shall not depend on which parents are merged (all candidates of
            a search have one vocabulary); empty for the parents that the recipe merges.
    """

    host: str
    layers: Mapping[str, tuple[Layer, ...]]
    before: Layer
    after: Layer
    dtype: str = "bfloat16"
    tokenizer: str = "base"
    seed: int = 0
    options: Mapping[str, str] = field(default_factory=dict)
    vocabulary: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "vocabulary", tuple(self.vocabulary))
        object.__setattr__(
            self, "layers", {name: tuple(self.layers[name]) for name in sorted(self.layers)}
        )
        object.__setattr__(
            self, "options", {name: str(self.options[name]) for name in sorted(self.options)}
        )
        if self.dtype not in DTYPES:
            raise RecipeError(
                f"dtype is {self.dtype!r}; allowed are {', '.join(DTYPES)}."
                f"{did_you_mean(self.dtype, DTYPES)}"
            )

    def every_layer(self) -> Iterator[Layer]:
        """Yield `before`, all blocks of all stacks, `after`."""
        yield self.before
        for stack in self.layers.values():
            yield from stack
        yield self.after

    @property
    def parents(self) -> tuple[str, ...]:
        """Every parent the recipe reads, the host first, each once."""
        seen = {self.host: None}
        for layer in self.every_layer():
            for source in (*layer.sources, *((layer.base,) if layer.base else ())):
                seen.setdefault(source.parent)
        return tuple(seen | dict.fromkeys(self.vocabulary))

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, dicts and numbers, fields at their default left out."""
        return dict(_plain(self))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Recipe:
        """Build a recipe from `to_dict`'s form.

        Raises:
            RecipeError: a key is unknown or missing, or a value has the wrong type.
        """
        try:
            kinds = {**data}
            for name in ("before", "after"):
                if name in kinds:
                    kinds[name] = _layer(kinds[name], name)
            kinds["layers"] = {
                name: tuple(_layer(item, f"layers.{name}[{i}]") for i, item in enumerate(stack))
                for name, stack in data.get("layers", {}).items()
            }
            return _build(cls, kinds, "recipe")  # type: ignore[no-any-return]
        except (TypeError, ValueError, AttributeError) as error:
            raise RecipeError(f"The recipe cannot be read: {error}.") from error

    def canonical(self) -> str:
        """Return the canonical JSON text of the recipe."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, as 64 hexadecimal digits."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()

    def to_yaml(self) -> str:
        """Return the recipe as YAML for people."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, default_flow_style=None, width=110)

    @classmethod
    def from_yaml(cls, text: str) -> Recipe:
        """Read what `to_yaml` wrote.

        Raises:
            RecipeError: the text is not YAML or not a recipe.
        """
        try:
            data = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise RecipeError(f"The recipe is not valid YAML: {error}.") from error
        if not isinstance(data, dict):
            raise RecipeError("The recipe is not a YAML mapping.")
        return cls.from_dict(data)


def _plain(value: Any) -> Any:
    if isinstance(value, (Source, Layer, Recipe)):
        plain: dict[str, Any] = {}
        for item in fields(value):
            content = getattr(value, item.name)
            empty = content in (None, {}, ()) and item.name != "sources"
            if not empty and content != item.default:
                plain[item.name] = _plain(content)
        return plain
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value


def _build(kind: Any, data: Mapping[str, Any], where: str) -> Any:
    allowed = [item.name for item in fields(kind)]
    for key in data:
        if key not in allowed:
            raise RecipeError(
                f"Unknown key {key!r} in {where}; allowed are {', '.join(allowed)}."
                f"{did_you_mean(str(key), allowed)}"
            )
    try:
        return kind(**data)
    except TypeError as error:
        raise RecipeError(f"{where} is incomplete: {error}.") from error


def _source(data: Any, where: str) -> Source:
    source = _build(Source, data, where)
    if not isinstance(source.parent, str):
        raise RecipeError(f"{where}.parent is {source.parent!r}; it must be a parent reference.")
    return source  # type: ignore[no-any-return]


def _layer(data: Any, where: str) -> Layer:
    kinds = dict(data)
    kinds["sources"] = tuple(
        _source(item, f"{where}.sources[{i}]") for i, item in enumerate(kinds.get("sources", ()))
    )
    if kinds.get("base") is not None:
        kinds["base"] = _source(kinds["base"], f"{where}.base")
    return _build(Layer, kinds, where)  # type: ignore[no-any-return]
