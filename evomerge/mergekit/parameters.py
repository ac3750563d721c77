"""Writing the knobs of a slice as mergekit's `parameters`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evomerge.errors import RecipeError
from evomerge.merging.methods.method import Knob as MethodKnob
from evomerge.merging.methods.method import Method
from evomerge.models.correspondence import TensorNameMap
from evomerge.recipe import Knob, Layer, knob_at


@dataclass(frozen=True)
class SliceContext:
    """What is the same for all slices of a file.

    `fits` has each parent's names of tensors, `factors` what the scales of a path become.
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

    The slice's first block is number `start` of the merged model. `outside` has (name, layer) of
    the tensors that mergekit merges with it: embeddings with the first slice, head with the last.
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
        per, found = "merge" if self.source is None else "source", {}
        for knob in (knob for knob in self.context.method.knobs if knob.per == per):
            value = self._parameter(knob)
            if knob.kind == "flag" and isinstance(value, float):
                value = bool(value)
            if knob.name == "weight" or value != knob.default:
                found[knob.name] = value
        return found

    def _parameter(self, knob: MethodKnob) -> Any:
        blocks = [  # (name that filters see, value)
            (self._shown(layer, suffix, merged), self._value(layer, knob, merged))
            for place, layer in enumerate(self.layers, self.start)
            for suffix, merged in self.context.block_names(layer, place).items()
        ]
        outside = [(name, self._value(layer, knob, name)) for name, layer in self.outside]
        rules = self._block_rules(knob, blocks)
        rules = [*((name, v) for name, v in outside if _look_up(rules, name) != v), *rules]
        for name, value in (*blocks, *outside):
            if _look_up(rules, name) != value:
                raise RecipeError(
                    f"No filter of mergekit can give {knob.name!r} of {name!r} its own value."
                )
        *entries, (_, rest) = rules
        if not entries:
            return rest
        return [*({"filter": pattern, "value": v} for pattern, v in entries), {"value": rest}]

    def _block_rules(
        self, knob: MethodKnob, blocks: Sequence[tuple[str, float]]
    ) -> list[tuple[str, float]]:
        """Return (filter, value) pairs for the tensors of the blocks; "" matches all tensors."""
        values = [value for _, value in blocks]
        common = max(values, key=values.count)
        if all(value == common for value in values):
            return [("", common)]
        given = self._given(self.layers[0], knob)
        if not isinstance(given, float):
            rules = [("" if pattern == "*" else pattern, value) for pattern, value in given]
            rules += [("", common)] if rules[-1][0] else []
            if all(_look_up(rules, name) == value for name, value in blocks):
                return rules
        depth = len(self.context.prefix.split(".")) + 1
        suffixes = {f".{name.split('.', depth)[-1]}": value for name, value in blocks}
        longest = sorted(suffixes, key=len, reverse=True)
        return [*((n, suffixes[n]) for n in longest if suffixes[n] != common), ("", common)]

    def _given(self, layer: Layer, knob: MethodKnob) -> Knob:
        knobs = layer.knobs if self.source is None else layer.sources[self.source].knobs
        given = knobs.get(knob.name, knob.default)
        if given is None:
            raise RecipeError(f"The knob {knob.name!r} is missing in the recipe.")
        return given

    def _value(self, layer: Layer, knob: MethodKnob, tensor: str) -> float:
        value = knob_at(self._given(layer, knob), tensor)
        return value * self.context.factors.get(tensor, 1.0) if knob.name == "scale" else value

    def _shown(self, layer: Layer, suffix: str, merged: str) -> str:
        """Return the name of a tensor that mergekit compares filters with."""
        if self.source is None:
            return merged
        source = layer.sources[self.source]
        fit = self.context.fits[source.parent]
        return fit.inside(self.context.prefix, source.layer or 0, suffix) or merged


def _look_up(rules: Sequence[tuple[str, float]], name: str) -> float:
    return next(value for pattern, value in rules if pattern in name)
