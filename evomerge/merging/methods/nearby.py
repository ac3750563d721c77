"""Methods that combine one source with the base: nearswap and arcee_fusion."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from evomerge.merging.kernels.compiled import Array, compiled, narrow, widen
from evomerge.merging.methods.method import Knob, Merge, Operands, Sources, Values, method

if TYPE_CHECKING:
    from torch import Tensor

_SUM_SIZE = 1 << 14
"""Maximum number of elements in one call of `sum`. From 2^15 on, torch divides a sum among threads,
so the bits would depend on the number of threads."""


@method(
    "the base, with each weight moved towards the source by at most t",
    Knob("t", None, 0, 100, search=(0.0, 0.01), help="largest change of a weight"),
    parents=(1, 1),
    base="required",
)
def nearswap(given: Operands) -> Merge:
    """Prepare out = base + clamp(x - base, -t, t): a weight changes by at most t.

    Weights of the source that differ from the base by at most t are taken unchanged.
    """
    source, base = given.tensors[0].reshape(-1), given.base.reshape(-1)

    def merge(sources: Sources, knobs: Values, out: Array) -> None:
        _store_moved(source, base, np.float32(knobs["t"]), out.reshape(-1))

    return merge


@compiled
def _store_moved(source: Array, base: Array, most: np.float32, out: Array) -> None:
    for i in range(len(out)):
        start = widen(base[i])
        change = widen(source[i]) - start
        change = most if change > most else (-most if change < -most else change)
        out[i] = narrow(start + change, out)


@method(
    "the base, with the source's most important weights",
    parents=(1, 1),
    base="required",
    paper="Goddard et al. 2024, arXiv 2403.13257",
    cached_bytes=1.0,
    working_bytes=lambda shape, _: 8.5 * prod(shape),
)
def arcee_fusion(given: Operands) -> Merge:
    """Prepare a merge with the most important weights of the source and the others of the base.

    The importance of a weight is |x - base| times the divergence of its row, KL(softmax(row of x)
    || softmax(row of base)). A weight is important if its importance is at least the median of all
    importances + 1.5 * (upper quartile - lower quartile). A quantile that falls between two
    elements is the lower one.
    """
    source, base = given.tensors[0], given.base
    chosen: list[Array] = []

    def merge(sources: Sources, knobs: Values, out: Array) -> None:
        mask = chosen[0] if chosen else _important(source, base)
        if given.reuse and not chosen:
            chosen.append(mask)
        _store_chosen(source.reshape(-1), base.reshape(-1), mask, out.reshape(-1))

    return merge


@compiled
def _store_chosen(source: Array, base: Array, chosen: Array, out: Array) -> None:
    """Write the source if `chosen` (bool) is true and the base is not NaN, otherwise the base."""
    for i in range(len(out)):
        start = widen(base[i])
        taken = chosen[i] and start == start
        out[i] = narrow(widen(source[i]) if taken else start, out)


def _important(source: Array, base: Array) -> Array:
    """Return whether each weight of a source is important, as a flat array of booleans."""
    import torch

    from evomerge.merging.kernels.torch_views import as_tensor, one_thread

    width = max(source.shape[-1] if source.ndim else 1, 1)
    ends, starts = (as_tensor(item.reshape(-1, width)) for item in (source, base))
    importance = torch.empty(ends.shape, dtype=torch.float32)
    tall = max(_SUM_SIZE // width, 1)
    with one_thread():
        for top in range(0, len(ends), tall):
            end, start = ends[top : top + tall].float(), starts[top : top + tall].float()
            # 1e-8 keeps the logarithm finite where softmax underflows.
            p, q = end.softmax(1).add_(1e-8), start.softmax(1).add_(1e-8)
            importance[top : top + tall] = (end - start).abs_() * _row_sums(p * (p / q).log_())
    values = importance.view(-1).numpy()
    last = len(values) - 1
    ranks = [int(last * share) for share in (0.25, 0.5, 0.75)]
    low, middle, high = (float(np.partition(values, rank)[rank]) for rank in ranks)
    result: Array = ~(values < middle + 1.5 * (high - low))  # a NaN counts as important
    return result


def _row_sums(values: Tensor) -> Tensor:
    """Return the sum of every row, of shape (rows, 1); a long row is summed in parts."""
    sums = values[:, :_SUM_SIZE].sum(1, keepdim=True)
    for at in range(_SUM_SIZE, values.shape[1], _SUM_SIZE):
        sums += values[:, at : at + _SUM_SIZE].sum(1, keepdim=True)
    return sums
