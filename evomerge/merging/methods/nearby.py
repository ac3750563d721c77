"""Methods that combine one source with the base: nearswap and arcee_fusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING

from evomerge.merging.methods.method import Knob, Merge, Method

if TYPE_CHECKING:
    from torch import Tensor

    from evomerge.merging.kernels.compiled import Array
    from evomerge.merging.kernels.noise import Noise

_SUM_SIZE = 1 << 14
"""Maximum number of elements in one call of `sum`. From 2^15 on, torch divides a sum among threads,
so the bits would depend on the number of threads."""


def prepare_nearswap(
    tensors: Sequence[Array], base: Array | None, noise: Sequence[Noise], *, reuse: bool
) -> Merge:
    """Prepare out = base + clamp(x - base, -t, t): a weight changes by at most t.

    Weights of the source that differ from the base by at most t are taken unchanged.
    """
    import numpy as np

    from evomerge.merging.kernels.passes import store_moved

    assert base is not None
    source, origin = tensors[0].reshape(-1), base.reshape(-1)

    def merge(
        sources: Sequence[Mapping[str, float]], knobs: Mapping[str, float], out: Array
    ) -> None:
        store_moved(source, origin, np.float32(knobs["t"]), out.reshape(-1))

    return merge


def prepare_arcee_fusion(
    tensors: Sequence[Array], base: Array | None, noise: Sequence[Noise], *, reuse: bool
) -> Merge:
    """Prepare a merge with the most important weights of the source and the others of the base.

    The importance of a weight is |x - base| times the divergence of its row, KL(softmax(row of x)
    || softmax(row of base)). A weight is important if its importance is at least the median of all
    importances + 1.5 * (upper quartile - lower quartile). A quantile that falls between two
    elements is the lower one.
    """
    from evomerge.merging.kernels.passes import store_chosen

    assert base is not None
    chosen: list[Array] = []

    def merge(
        sources: Sequence[Mapping[str, float]], knobs: Mapping[str, float], out: Array
    ) -> None:
        mask = chosen[0] if chosen else important(tensors[0], base)
        if reuse and not chosen:
            chosen.append(mask)
        store_chosen(tensors[0].reshape(-1), base.reshape(-1), mask, out.reshape(-1))

    return merge


def important(source: Array, base: Array) -> Array:
    """Return whether each weight of a source is important (see `prepare_arcee_fusion`).

    Returns:
        a flat array of booleans, one for each element.
    """
    import numpy as np
    import torch

    from evomerge.merging.kernels.one_thread import one_thread
    from evomerge.merging.kernels.torch_views import as_tensor

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


NEARSWAP = Method(
    name="nearswap",
    title="the base, with each weight moved towards the source by at most t",
    prepare=prepare_nearswap,
    knobs=(
        Knob("t", None, 0, 100, "merge", search=(0.0, 0.01), help="largest change of a weight"),
    ),
    arrays=True,
    parents=(1, 1),
    base="required",
)

ARCEE_FUSION = Method(
    name="arcee_fusion",
    title="the base, with the source's most important weights",
    prepare=prepare_arcee_fusion,
    knobs=(),
    arrays=True,
    parents=(1, 1),
    base="required",
    paper="Goddard et al. 2024, arXiv 2403.13257",
    cached_bytes=1.0,
    working_bytes=lambda shape, _: 8.5 * prod(shape),
)
