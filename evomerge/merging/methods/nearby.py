"""Methods that combine one source with the base: nearswap and arcee_fusion."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from evomerge.merging.methods.blocks import SIZE, blocks
from evomerge.merging.methods.method import Knob, Merge, Operands, Sources, Values, method

if TYPE_CHECKING:
    from torch import Tensor


@method(
    "the base, with each weight moved towards the source by at most t",
    Knob("t", None, 0, 100, search=(0.0, 0.01), help="largest change of a weight"),
    parents=(1, 1),
    base="required",
    torch=True,
)
def nearswap(given: Operands) -> Merge:
    """Prepare out = base + clamp(x - base, -t, t): a weight changes by at most t."""

    def merge(sources: Sources, knobs: Values, out: Tensor) -> None:
        for _, base, changes, target in blocks(given, out):
            target.copy_(base + changes[0].clamp(-knobs["t"], knobs["t"]))

    return merge


@method(
    "the base, with the source's most important weights",
    parents=(1, 1),
    base="required",
    paper="Goddard et al. 2024, arXiv 2403.13257",
    cached_bytes=1.0,
    working_bytes=lambda shape, _: 8.5 * prod(shape),
    torch=True,
)
def arcee_fusion(given: Operands) -> Merge:
    """Prepare a merge with the most important weights of the source and the others of the base.

    The importance of a weight is |x - base| times the divergence of its row, KL(softmax(row of x)
    || softmax(row of base)). A weight is important if its importance is at least the median of all
    importances + 1.5 * (upper quartile - lower quartile). A quantile that falls between two
    elements is the lower one.
    """
    import numpy as np
    import torch

    width = max(given.base.shape[-1] if given.base.ndim else 1, 1)
    rows = (
        it.reshape(-1, width).split(max(SIZE // width, 1)) for it in (*given.tensors, given.base)
    )
    importance = torch.cat([_importance(x.float(), y.float()) for x, y in zip(*rows, strict=True)])
    ranks = [int((importance.numel() - 1) * share) for share in (0.25, 0.5, 0.75)]
    low, middle, high = np.partition(importance.flatten().numpy(), ranks)[ranks].tolist()
    # A NaN counts as important, but one of the base stays.
    chosen = (importance < middle + 1.5 * (high - low)).logical_not_().view(given.base.shape)
    del importance
    chosen &= given.base == given.base

    def merge(sources: Sources, knobs: Values, out: Tensor) -> None:
        out.copy_(torch.where(chosen, given.tensors[0], given.base))

    return merge


def _importance(x: Tensor, base: Tensor) -> Tensor:
    """Return the importance of each weight of some rows (float32)."""
    # 1e-8 keeps the logarithm finite where softmax underflows.
    p, q = x.softmax(1) + 1e-8, base.softmax(1) + 1e-8
    return (x - base).abs() * (p * (p / q).log()).sum(1, keepdim=True)
