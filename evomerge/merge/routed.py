"""The resident model of a search over paths: parameters are looked up by what they hold.

A path's block is a parent's block as it is, so there is nothing to merge and nothing to copy: the
parameters of the model point at the parents' tensors, mapped from disk, wherever a block stands
and however often. Every position has a module of its own around them, with its own place in the
key-value cache. What a candidate does change (matrices with a folded scale, merged blocks of a
joint search) is made once for all positions that need it, and kept while the next candidate does.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor, nn

from evomerge.merge.architecture.layout import Layout
from evomerge.merge.architecture.probe import Location
from evomerge.merge.resident import Resident
from evomerge.merge.tensors.maker import is_finite
from evomerge.merge.tensors.plan import TensorPlan
from evomerge.merge.tensors.threads import for_each

Piece: TypeAlias = tuple[TensorPlan, Location]


class RoutedResident(Resident):
    """Builds candidates whose blocks come from anywhere, without copies of unchanged weights.

    Arguments and contract are those of `Resident`; a model's bits are the same from both. One
    module serves all recipes of the same depth (and the same kinds of blocks, where an
    architecture has several).
    """

    most_layouts = 64  # they hold no weights
    shows_parents = True  # an objective function may write into them: no file changes

    def _furnish(self, layout: Layout) -> None:
        """Leave the placeholders: every candidate points its parameters anew."""

    def _fill(self, layout: Layout, plans: list[TensorPlan]) -> None:
        """Point every parameter at a tensor with the planned content."""
        pieces: dict[str, list[Piece]] = {}
        for plan in plans:
            location = layout.locations.get(plan.name)
            if location is not None:
                pieces.setdefault(location.parameter, []).append((plan, location))
        weights = _weights(layout.module)
        made: dict[Hashable, Tensor] = {}
        for name, parts in pieces.items():
            content = tuple(self._content(plan, location) for plan, location in parts)
            key = (content, weights[name].device)
            tensor = self._own.get(key, self._made.get(key, made.get(key)))
            if tensor is None:
                tensor = self._parents_own(weights[name], parts)
                if tensor is not None:
                    self._own[key] = tensor
                else:
                    tensor = self._make(weights[name], parts)
            if key not in self._own:
                made[key] = tensor
            weights[name].data = tensor
        self._made.clear()
        self._made.update(made)

    @cached_property
    def _own(self) -> dict[Hashable, Tensor]:
        """Tensors of the parents that were used as they are, by content."""
        return {}

    @cached_property
    def _made(self) -> dict[Hashable, Tensor]:
        """Tensors that were made for the last candidate, by content."""
        return {}

    def _parents_own(self, weight: Tensor, parts: list[Piece]) -> Tensor | None:
        """Return the parent's tensor that a parameter can point at, or None if it must be made."""
        plan, location = parts[0]
        if len(parts) > 1 or not _is_plain(plan):
            return None
        source = self.maker.read(plan, plan.sources[0])
        fits = (
            source.dtype == weight.dtype
            and location.size == tuple(weight.shape)
            and location.axes == tuple(range(weight.dim()))
        )
        return source.to(weight.device) if fits and is_finite(source) else None

    def _make(self, weight: Tensor, parts: list[Piece]) -> Tensor:
        made = torch.empty(weight.shape, dtype=weight.dtype, device=weight.device)
        for_each(lambda part: self._write(part[0], part[1].view(made, part[0].shape)), parts)
        return made

    def _content(self, plan: TensorPlan, location: Location) -> Hashable:
        """Return what tells one tensor's content from another's: the plan without its name."""
        return (
            plan.name if self.rows is not None else "",
            plan.method,
            plan.sources,
            plan.base,
            tuple(tuple(knobs.items()) for knobs in plan.knobs),
            tuple((plan.merge_knobs or {}).items()),
            (plan.seed, plan.factor, plan.offset),
            (plan.shape, plan.dtype),
            (location.start, location.size, location.axes),
        )


def _is_plain(plan: TensorPlan) -> bool:
    """Whether the tensor is its only source, bit for bit but for its dtype."""
    if plan.method is None:
        return True
    knobs = [value for own in plan.knobs for value in own.values()]
    return (
        plan.method == "passthrough"
        and len(plan.sources) == 1
        and plan.factor == 1.0
        and all(value == 1.0 for value in knobs)
    )


def _weights(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_buffers()), **dict(module.named_parameters())}
