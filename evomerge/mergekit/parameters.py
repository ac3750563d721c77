"""Writing the knobs of a slice as mergekit's `parameters`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evomerge.errors import RecipeError
from evomerge.merging.methods.method import Knob as MethodKnob
from evomerge.merging.methods.method import Method
from evomerge.merging.tensors.plan import TensorPlan
from evomerge.recipe import Layer


@dataclass(frozen=True)
class SliceKnobs:
    """The knobs of one source of a slice, or of the slice as a whole (`source` None).

    `prefix` and `first` are the stack of the slice and its first layer, `blocks` the tensors of all
    its blocks. `outside` are tensors that mergekit merges with it: embeddings with the first slice,
    head with the last.
    """

    method: Method
    prefix: str
    first: Layer
    blocks: Sequence[TensorPlan]
    outside: Sequence[TensorPlan]
    source: int | None

    def parameters(self) -> dict[str, Any]:
        """Return mergekit's `parameters`, without values at their default.

        RecipeError: mergekit has no filters that give every tensor its value.
        """
        per, written = "merge" if self.source is None else "source", {}
        for knob in (knob for knob in self.method.knobs if knob.per == per):
            value = self._parameter(knob)
            if knob.kind == "flag" and isinstance(value, float):
                value = bool(value)
            if knob.name == "weight" or value != knob.default:
                written[knob.name] = value
        return written

    def _parameter(self, knob: MethodKnob) -> Any:
        blocks = [(self._shown(plan), self._value(plan, knob)) for plan in self.blocks]
        outside = [(plan.name, self._value(plan, knob)) for plan in self.outside]
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
        knobs = self.first.knobs if self.source is None else self.first.sources[self.source].knobs
        setting = knobs.get(knob.name, ())
        if not isinstance(setting, float) and setting:
            rules = [("" if pattern == "*" else pattern, value) for pattern, value in setting]
            rules += [("", common)] if rules[-1][0] else []
            if all(_look_up(rules, name) == value for name, value in blocks):
                return rules
        depth = len(self.prefix.split(".")) + 1
        suffixes = {f".{name.split('.', depth)[-1]}": value for name, value in blocks}
        longest = sorted(suffixes, key=len, reverse=True)
        return [*((n, suffixes[n]) for n in longest if suffixes[n] != common), ("", common)]

    def _value(self, plan: TensorPlan, knob: MethodKnob) -> float:
        knobs = (plan.merge_knobs or {}) if self.source is None else plan.knobs[self.source]
        return knobs[knob.name] * (plan.factor if knob.name == "scale" else 1.0)

    def _shown(self, plan: TensorPlan) -> str:
        """Return the name of a tensor that mergekit compares filters with."""
        return plan.name if self.source is None else plan.sources[self.source].name


def _look_up(rules: Sequence[tuple[str, float]], name: str) -> float:
    return next(value for pattern, value in rules if pattern in name)
