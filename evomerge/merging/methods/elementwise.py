"""Methods that decide for each element: nearswap, arcee_fusion, ram, ramplus, sce."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from evomerge.merging.methods.blocks import SIZE, blocks, total
from evomerge.merging.methods.method import Operands, flag, knob, method

if TYPE_CHECKING:
    from torch import Tensor

    from evomerge.merging.kernels.selection import MagnitudeCut

_EPSILON = knob(1e-5, 0, 1, selects=True)


@method(
    "the base, with each weight moved towards the source by at most t",
    parents=(1, 1),
    base="required",
    torch=True,
)
def nearswap(
    operands: Operands, out: Tensor, *, t: float = knob(None, 0, 100, search=(0.0, 0.01))
) -> None:
    """Write base + clamp(x - base, -t, t): a weight changes by at most t."""
    for _, base, changes, target in blocks(operands, out):
        target.copy_(base + changes[0].clamp(-t, t))


def _important(operands: Operands) -> Tensor:
    """Return where the source counts in `arcee_fusion`."""
    import torch

    width = max(operands.base.shape[-1] if operands.base.ndim else 1, 1)
    pair, tall = (*operands.tensors, operands.base), max(SIZE // width, 1)
    rows = (tensor.reshape(-1, width).split(tall) for tensor in pair)

    def of_rows(x: Tensor, y: Tensor) -> Tensor:
        # 1e-8 keeps the logarithm finite where softmax underflows.
        p, q = x.softmax(1) + 1e-8, y.softmax(1) + 1e-8
        return (x - y).abs() * (p * (p / q).log()).sum(1, keepdim=True)

    importance = torch.cat([of_rows(x.float(), y.float()) for x, y in zip(*rows, strict=True)])
    ranks = [int((importance.numel() - 1) * share) for share in (0.25, 0.5, 0.75)]
    low, middle, high = np.partition(importance.flatten().numpy(), ranks)[ranks].tolist()
    # A NaN counts as important, but one of the base stays.
    least = middle + 1.5 * (high - low)
    chosen: Tensor = (importance < least).logical_not_().view(operands.base.shape)
    del importance
    chosen &= operands.base == operands.base
    return chosen


@method(
    "the base, with the source's most important weights",
    parents=(1, 1),
    base="required",
    paper="Goddard et al. 2024, arXiv 2403.13257",
    preparation=_important,
    cached_bytes=1.0,
    working_bytes=4.25,
    torch=True,
)
def arcee_fusion(operands: Operands, out: Tensor) -> None:
    """Write the most important weights of the source and the others of the base.

    The importance of a weight is |x - base| times the divergence of its row, KL(softmax(row of x)
    || softmax(row of base)). A weight is important if that is at least the median of all
    importances + 1.5 * (upper quartile - lower quartile), each the lower of two elements.
    """
    import torch

    out.copy_(torch.where(operands.prepared, operands.tensors[0], operands.base))


def _ratios(operands: Operands, epsilon: float) -> Tensor:
    """Return shared_i / alone_i (see `ramplus`), of shape (sources, 1, 1)."""
    import torch

    alone, shared = torch.zeros(2, len(operands.tensors), 1, 1, dtype=torch.float64)
    for _, _, changes, _ in blocks(operands):
        changed = (changes.abs() > epsilon).float()
        single = changed * (total(changed) == 1)
        alone += single.sum((1, 2), keepdim=True)
        shared += (changed - single).sum((1, 2), keepdim=True)
    ratios: Tensor = (shared / alone.clamp(min=1)).float()
    return ratios


_CHANGED: dict[str, Any] = {
    "parents": (2, None),
    "base": "required",
    "paper": "Behavior Knowledge Merge in Reinforced Agentic Models, 2026",
    "torch": True,
}


@method("changes that one source makes alone, and the mean of those that several make", **_CHANGED)
def ram(operands: Operands, out: Tensor, *, epsilon: float = _EPSILON) -> None:
    """Write base + the mean of the changes |x - base| > epsilon of each element."""
    _write_changed(operands, out, epsilon, None)


@method(
    "RAM, with the changes that one source makes alone multiplied by a factor",
    preparation=lambda operands: lru_cache(1)(partial(_ratios, operands)),
    **_CHANGED,
)
def ramplus(
    operands: Operands,
    out: Tensor,
    *,
    epsilon: float = _EPSILON,
    r: float = knob(0.1, 0, 10, search=(0.0, 1.0)),
    alpha: float = knob(0.2, 0, 10),
) -> None:
    """Write RAM, with what only source i changes times 1 + r min(shared_i / alone_i, alpha).

    alone_i is the number of elements that only source i changes, and shared_i that of those which
    others change, too.
    """
    more = r * operands.prepared(epsilon).clamp(max=alpha) if r else None
    _write_changed(operands, out, epsilon, more)


def _write_changed(operands: Operands, out: Tensor, epsilon: float, more: Tensor | None) -> None:
    """Write RAM; `more`: what is added to the factor 1 of what each source changes alone."""
    for _, base, changes, target in blocks(operands, out):
        changed = (changes.abs() > epsilon).float()
        changes *= changed  # a NaN stays
        number = total(changed)
        mean = total(changes) / number.clamp(min=1)
        if more is not None:
            mean += total(changes * more) * (number == 1)
        target.copy_(base + mean)


def _variances(operands: Operands) -> Tensor:
    """Return the variances over the task vectors, flat."""
    import torch

    variances = torch.empty(operands.base.numel())
    for (_, at), _, changes, _ in blocks(operands):
        variances[at] = _variance(changes)[0]
    return variances


@method(
    "task vectors where they vary most, weighted by their energy, with elected signs",
    parents=(2, None),
    base="required",
    paper="Wan et al. 2024, arXiv 2408.07990",
    preparation=lambda operands: cache(partial(_variances, operands)),
    cached_bytes=2.0,
    working_bytes=1.5,
    torch=True,
)
def sce(
    operands: Operands,
    out: Tensor,
    *,
    select_topk: float = knob(1.0, 0, 1, search=(0.1, 1.0), selects=True),
    int8_mask: bool = flag(False),
) -> None:
    """Write SCE, which has three steps.

    - Select: of the n elements that differ between the task vectors, the floor(select_topk n) with
      the largest variance stay (among equal ones, those with the lowest index); the others become
      0. With `select_topk` = 1 all elements stay.
    - Calculate: the weight of a source is the sum of squares of its task vector after selection,
      divided by this sum for all sources: 0 for a source that equals the base.
    - Erase: for each element, the sign of the sum of the task vectors is elected. The weighted mean
      of the changes with this sign is added to the base.
    """
    import torch

    from evomerge.merging.kernels.selection import find_cut

    kept, cut = operands.base.numel(), None
    if select_topk < 1:
        variances = operands.prepared().numpy()
        kept = int(select_topk * np.count_nonzero(variances))
        cut = find_cut(variances.__getitem__, len(variances), kept) if kept else None
    energies = torch.zeros(len(operands.tensors), 1, 1, dtype=torch.float64)
    for _, changes, _target in _selected(operands, cut, out) if kept else ():
        energies += changes.square().sum((1, 2), keepdim=True, dtype=torch.float64)
    if not energies.any():
        out.copy_(operands.base)
        return
    weights = (energies / energies.sum()).float()
    for base, changes, target in _selected(operands, cut, out):
        sign = torch.copysign(torch.ones(()), total(changes) + 0.0)  # that of 0 is 1
        along = (changes * sign).clamp_(min=0)  # 0: it has not the elected sign
        divisor = total(along.sign() * weights).clamp_(min=1e-37)  # where there are none
        target.copy_(base + total(along * weights) / divisor * sign)


def _selected(
    operands: Operands, cut: MagnitudeCut | None, out: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield blocks of the base, of the task vectors before a cut, and of the result."""
    import torch

    for (_, at), base, changes, target in blocks(operands, out):
        if cut is not None:
            variance = _variance(changes)
            index = torch.arange(at.start, at.start + changes.shape[-1])
            after = (variance == cut.magnitude) & (index >= cut.index)
            changes.masked_fill_(after | (variance < cut.magnitude), 0)
        yield base, changes, target


def _variance(changes: Tensor) -> Tensor:
    """Return the sum of squared differences from the mean over the sources (first dimension)."""
    away = changes - changes[0]  # so that equal changes vary by exactly 0
    return total((away - total(away) / len(away)).square())
