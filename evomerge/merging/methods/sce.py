"""SCE: select elements by variance, calculate weights by energy, erase changes of minority sign."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

from evomerge.merging.kernels.compiled import Array
from evomerge.merging.kernels.passes import spans
from evomerge.merging.kernels.selection import MagnitudeCut, MagnitudeOrder, find_cut
from evomerge.merging.methods.blocks import blocks, total
from evomerge.merging.methods.method import Knob, Merge, Operands, Sources, Values, flag, method

if TYPE_CHECKING:
    from torch import Tensor

_LEAST = 1e-37
"""Divides a sum of no changes; smaller than every weight that counts."""


@method(
    "task vectors where they vary most, weighted by their energy, with elected signs",
    Knob(
        "select_topk",
        1.0,
        0,
        1,
        search=(0.1, 1.0),
        help="share that stays, by variance",
        has_slope=False,
    ),
    flag("int8_mask", False, "accepted, changes nothing"),
    parents=(2, None),
    base="required",
    paper="Wan et al. 2024, arXiv 2408.07990",
    cached_bytes=4.0,
    torch=True,
)
def sce(given: Operands) -> Merge:
    """Prepare SCE, which has three steps.

    - Select: of the n elements that differ between the task vectors, the floor(select_topk n) with
      the largest variance stay (among equal ones, those with the lowest index); the others become
      0. With `select_topk` = 1 all elements stay.
    - Calculate: the weight of a source is the sum of squares of its task vector after selection,
      divided by this sum for all sources: 0 for a source that equals the base.
    - Erase: for each element, the sign of the sum of the task vectors is elected. The weighted mean
      of the changes with this sign is added to the base.
    """
    import torch

    start, sources = given.base.reshape(-1), [tensor.reshape(-1) for tensor in given.tensors]
    size = len(start)

    def variances(part: slice | Array) -> Array:
        base = start[part].float()
        array: Array = _variance(torch.stack([it[part].float() - base for it in sources])).numpy()
        return array

    @cache
    def varying() -> int:
        return sum(int((variances(span) != 0).sum()) for span in spans(size))

    order = MagnitudeOrder(variances, size) if given.reuse else None

    def selected(cut: MagnitudeCut | None, out: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield blocks of the base, of the task vectors before a cut, and of the result."""
        for (_, at), base, changes, target in blocks(given, out):
            if cut is not None:
                variance = _variance(changes)
                index = torch.arange(at.start, at.start + changes.shape[-1])
                after = (variance == cut.magnitude) & (index >= cut.index)
                changes.masked_fill_(after | (variance < cut.magnitude), 0)
            yield base, changes, target

    def merge(own: Sources, knobs: Values, out: Tensor) -> None:
        share = knobs["select_topk"]
        kept = size if share == 1 else int(share * varying())
        cut = None
        if 0 < kept < size:
            cut = order.cut(kept) if order else find_cut(variances, size, kept)
        energies = torch.zeros(len(sources), 1, 1, dtype=torch.float64)
        for _, changes, _target in selected(cut, out) if kept else ():
            energies += changes.square().sum((1, 2), keepdim=True, dtype=torch.float64)
        if not energies.any():
            out.copy_(given.base)
            return
        weights = (energies / energies.sum()).float()
        for base, changes, target in selected(cut, out):
            sign = torch.copysign(torch.ones(()), total(changes) + 0.0)  # that of 0 is 1
            along = (changes * sign).clamp_(min=0)  # 0: it has not the elected sign
            divisor = total(along.sign() * weights).clamp_(min=_LEAST)
            target.copy_(base + total(along * weights) / divisor * sign)

    return merge


def _variance(changes: Tensor) -> Tensor:
    """Return the sum of squared differences from the mean over the sources (first dimension)."""
    away = changes - changes[0]  # so that equal changes vary by exactly 0
    return total((away - total(away) / len(away)).square())
