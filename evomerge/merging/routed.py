"""The resident model of a search over paths through the layers.

Most blocks of a path are unchanged blocks of a parent, so nothing has to be merged or copied: the
parameters of the model refer to the parents' memory-mapped tensors. A block may occur several times
in a path. Each occurrence is a module of its own with its own entry in the key-value cache, but all
of them use the same tensors. Tensors that do change (matrices with a folded scale, merged blocks of
a joint search) are made once for all positions with equal content, and kept if the next candidate
uses them too.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from evomerge.merging.architecture.layout import Layout
from evomerge.merging.architecture.probe import Location
from evomerge.merging.kernels.torch_views import as_tensor
from evomerge.merging.resident import Resident, parallel_map
from evomerge.merging.tensors.maker import is_finite
from evomerge.merging.tensors.plan import TensorPlan
from evomerge.models.safetensors import FLOATING

Piece: TypeAlias = tuple[TensorPlan, Location]


class RoutedResident(Resident):
    """Builds models of paths without copies of unchanged weights.

    The arguments and the resulting bits are those of `Resident`. All recipes of the same depth use
    the same module, if their blocks are also of the same kinds in an architecture with several.
    """

    most_layouts = 64  # these modules take little memory, since they have no weights of their own
    shows_parents = True  # an objective function may write into them; this changes no file

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._unchanged: dict[Hashable, Tensor] = {}
        """Unchanged tensors of the parents, by content."""
        self._made: dict[Hashable, Tensor] = {}
        """Tensors that were made for the last candidate, by content."""

    def _allocate(self, layout: Layout) -> None:
        """Do nothing, since every candidate sets the tensors of all parameters."""

    def _fill(self, layout: Layout, plans: list[TensorPlan]) -> None:
        """Set every parameter to a tensor with the planned content."""
        weights = _weights(layout.module)
        made: dict[Hashable, Tensor] = {}
        for name, parts in _pieces(layout, plans).items():
            key = self._content(weights[name], parts)
            tensor = self._unchanged.get(key, self._made.get(key, made.get(key)))
            if tensor is None:
                tensor = self._parent_tensor(weights[name], parts)
                if tensor is not None:
                    self._unchanged[key] = tensor
                else:
                    tensor = self._make(weights[name], parts)
            if key not in self._unchanged:
                made[key] = tensor
            weights[name].data = tensor
        self._made = made

    def _changed(self, layout: Layout, plans: list[TensorPlan]) -> list[TensorPlan]:
        """Return the plans of the tensors that must be made, equal ones only once."""
        if all(map(_is_plain, plans)):
            return []
        weights = _weights(layout.module)
        made: dict[Hashable, list[TensorPlan]] = {}
        for name, parts in _pieces(layout, plans).items():
            key = self._content(weights[name], parts)
            if key not in self._unchanged and key not in self._made:
                made.setdefault(key, [plan for plan, _ in parts if not _is_plain(plan)])
        return [plan for of_one in made.values() for plan in of_one]

    def _parent_tensor(self, weight: Tensor, parts: list[Piece]) -> Tensor | None:
        """Return the parent's tensor that a parameter can be set to, or None if there is none."""
        plan, location = parts[0]
        if len(parts) > 1 or not _is_plain(plan):
            return None
        weights = self.maker.read(plan, plan.sources[0])
        source = as_tensor(weights, plan.dtype if plan.method is None else None)
        fits = (
            source.dtype == weight.dtype
            and location.size == tuple(weight.shape)
            and location.axes == tuple(range(weight.dim()))
            and (plan.dtype not in FLOATING or is_finite(weights))
        )
        return source.to(weight.device) if fits else None

    def _make(self, weight: Tensor, parts: list[Piece]) -> Tensor:
        made = torch.empty(weight.shape, dtype=weight.dtype, device=weight.device)
        parallel_map(lambda part: self._write(part[0], part[1].view(made, part[0].shape)), parts)
        return made

    def _content(self, weight: Tensor, parts: list[Piece]) -> Hashable:
        """Return a key of a parameter's content: all that its tensor depends on but names.

        With a merged vocabulary the names are part of it, since rows are matched by name.
        """
        return weight.device, tuple(
            (
                plan.name if self.rows is not None else "",
                (plan.method, plan.sources, plan.base, plan.seed, plan.factor, plan.offset),
                tuple(tuple(knobs.items()) for knobs in (*plan.knobs, plan.merge_knobs or {})),
                (plan.shape, plan.dtype),
                (location.start, location.size, location.axes),
            )
            for plan, location in parts
        )


def _pieces(layout: Layout, plans: list[TensorPlan]) -> dict[str, list[Piece]]:
    """Return the tensors that each parameter consists of: parameter -> plans and locations."""
    pieces: dict[str, list[Piece]] = {}
    for plan in plans:
        location = layout.locations.get(plan.name)
        if location is not None:
            pieces.setdefault(location.parameter, []).append((plan, location))
    return pieces


def _is_plain(plan: TensorPlan) -> bool:
    """Whether a tensor equals its only source, apart from the dtype."""
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
