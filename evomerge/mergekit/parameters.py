"""Writing the knobs of a slice as mergekit's `parameters`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evomerge.errors import RecipeError
from evomerge.merging.methods.method import Method
from evomerge.models.correspondence import TensorNameMap
from evomerge.recipe import Knob, Layer, knob_at


@dataclass(frozen=True)
class SliceContext:
    """What is the same for all slices of a file.

    Attributes:
        fits: parent -> map from the names of the host's tensors to those of the parent.
        factors: name of a merged tensor -> factor from the scales of a path.
    """

    method: Method
    prefix: str
    fits: Mapping[str, TensorNameMap]
    factors: Mapping[str, float]

    def block_names(self, layer: Layer, position: int) -> dict[str, str]:
        """Return name inside of a block of the recipe -> full name in the merged model."""
        lead = layer.sources[0]
        fit = self.fits[lead.parent]
        stack = fit.host.stacks[self.prefix]
        suffixes = fit.block(self.prefix, lead.layer or 0, position)
        return {suffix: stack.name(position, suffix) for suffix in suffixes}


@dataclass(frozen=True)
class SliceKnobs:
    """The knobs of one source of a slice, or of the slice as a whole (`source` None).

    Attributes:
        start: index of the slice's first block in the merged model.
        outside: (name, layer) pairs of the tensors outside of the blocks that mergekit merges with
            this slice (embeddings with the first slice, head with the last one).
    """

    context: SliceContext
    start: int
    layers: Sequence[Layer]
    outside: Sequence[tuple[str, Layer]]
    source: int | None

    def parameters(self) -> dict[str, Any]:
        """Return mergekit's `parameters`, without values at their default.

        RecipeError: mergekit has no filters that give every tensor its value.
        """
        per = "merge" if self.source is None else "source"
        found = {}
        for knob in self.context.method.knobs:
            if knob.per == per:
                default = None if knob.name == "weight" else knob.default
                value = self._parameter(knob.name, knob.default)
                if value != default:
                    found[knob.name] = (
                        bool(value) if knob.kind == "flag" and isinstance(value, float) else value
                    )
        return found

    def _parameter(self, name: str, default: float | None) -> Any:
        blocks: dict[str, tuple[str, float]] = {}  # merged name -> (name that filters see, value)
        for offset, layer in enumerate(self.layers):
            knob = self._given(layer, name, default)
            names = self.context.block_names(layer, self.start + offset)
            for suffix, merged in names.items():
                blocks[merged] = (self._shown(layer, suffix, merged), self._at(knob, name, merged))
        wanted = {
            item: self._at(self._given(layer, name, default), name, item)
            for item, layer in self.outside
        }
        rules = self._block_rules(name, default, blocks)
        exact = [(item, value) for item, value in wanted.items() if _look_up(rules, item) != value]
        rules = [*exact, *rules]
        for shown, value in [*blocks.values(), *wanted.items()]:
            if _look_up(rules, shown) != value:
                raise RecipeError(
                    f"No filter of mergekit can give {name!r} of {shown!r} its own value."
                )
        if len(rules) == 1:
            return rules[0][1]
        entries: list[dict[str, Any]] = [{"filter": p, "value": v} for p, v in rules[:-1]]
        return [*entries, {"value": rules[-1][1]}]

    def _block_rules(
        self, name: str, default: float | None, blocks: Mapping[str, tuple[str, float]]
    ) -> list[tuple[str, float]]:
        """Return (filter, value) pairs for the tensors of the blocks; "" matches all tensors."""
        values = [value for _, value in blocks.values()]
        common = max(values, key=values.count)
        if all(value == common for value in values):
            return [("", common)]
        knob = self._given(self.layers[0], name, default)
        if not isinstance(knob, float):
            given = [("" if pattern == "*" else pattern, value) for pattern, value in knob]
            if given[-1][0]:
                given.append(("", common))
            if all(_look_up(given, shown) == value for shown, value in blocks.values()):
                return given
        suffixes = {
            shown.split(".", len(self.context.prefix.split(".")) + 1)[-1]: value
            for shown, value in blocks.values()
        }
        longest = sorted(suffixes, key=len, reverse=True)
        return [
            *((f".{suffix}", suffixes[suffix]) for suffix in longest if suffixes[suffix] != common),
            ("", common),
        ]

    def _given(self, layer: Layer, name: str, default: float | None) -> Knob:
        knobs = layer.knobs if self.source is None else layer.sources[self.source].knobs
        knob = knobs.get(name, default)
        if knob is None:
            raise RecipeError(f"The knob {name!r} is missing in the recipe.")
        return knob

    def _at(self, knob: Knob, name: str, tensor: str) -> float:
        value = knob_at(knob, tensor)
        return value * self.context.factors.get(tensor, 1.0) if name == "scale" else value

    def _shown(self, layer: Layer, suffix: str, merged: str) -> str:
        """Return the name of a tensor that mergekit compares filters with."""
        if self.source is None:
            return merged
        source = layer.sources[self.source]
        fit = self.context.fits[source.parent]
        return fit.inside(self.context.prefix, source.layer or 0, suffix) or merged


def _look_up(rules: Sequence[tuple[str, float]], name: str) -> float:
    return next(value for pattern, value in rules if pattern in name)
