"""Passes over tensors in spans that fit the cache, so that no float32 copy of them is made.

Arithmetic is float32. An elementwise operation gives an element the same bits wherever a span
begins and however many threads share it. A sum does not, so every sum is taken here: over blocks
too small for torch to share among threads, added up in order in Python's float64.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

SPAN = 1 << 16
"""Elements a pass works on at once on a CPU: some float32 buffers of it fit the L2 cache."""

SPAN_OFF_CPU = 1 << 24

BLOCK = 1 << 14
"""Elements summed at once on a CPU; torch shares work among threads from 2^15 on."""


class _Buffers(threading.local):
    def __init__(self) -> None:
        self.held: dict[tuple[int | str, torch.device, torch.dtype], Tensor] = {}


_buffers = _Buffers()


def spans(tensor: Tensor, *, rows_of: int = 1) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of every span of a flat tensor; spans hold whole rows of `rows_of`."""
    step = SPAN if tensor.device.type == "cpu" else SPAN_OFF_CPU
    step = max(step // rows_of, 1) * rows_of
    for start in range(0, tensor.numel(), step):
        yield start, min(start + step, tensor.numel())


def scratch(like: Tensor, slot: int | str, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return a reused buffer of `like`'s size and device: one a thread, slot and dtype."""
    key = (slot, like.device, dtype)
    held = _buffers.held.get(key)
    size = like.numel()
    if held is None or held.numel() < size:
        held = torch.empty(max(size, SPAN), dtype=dtype, device=like.device)
        _buffers.held[key] = held
    return held if held.numel() == size else held[:size]


def flat(tensor: Tensor) -> Tensor:
    """Return the tensor as one row (a view where it is contiguous)."""
    return tensor.detach().reshape(-1)


def load(span: Tensor, slot: int | str) -> Tensor:
    """Return a span's values as float32 in a scratch buffer that may be written."""
    return scratch(span, slot).copy_(span)


def total(values: Tensor) -> float:
    """Return the sum of a flat float32 tensor; its bits do not depend on the threads."""
    if values.device.type != "cpu":
        return float(values.sum(dtype=torch.float64))
    result = 0.0
    for start in range(0, values.numel(), BLOCK):
        result += float(values[start : start + BLOCK].sum())
    return result


def products(tensors: Sequence[Tensor], base: Tensor | None = None) -> list[list[float]]:
    """Return the dot products of every two tensors, or of their differences from a base.

    Returns:
        a symmetric matrix, a row a tensor, to about 1e-8 of the tensors' lengths.
    """
    rows = [flat(tensor) for tensor in tensors]
    origin = None if base is None else flat(base)
    count = len(rows)
    sums = [[0.0] * count for _ in rows]
    for a, b in spans(rows[0]):
        loaded = [load(row[a:b], slot) for slot, row in enumerate(rows)]
        if origin is not None:
            start = load(origin[a:b], "base")
            for values in loaded:
                values.sub_(start)
        product = scratch(loaded[0], "product")
        for i, left in enumerate(loaded):
            for j in range(i, count):
                sums[i][j] += total(torch.mul(left, loaded[j], out=product))
    return [[sums[min(i, j)][max(i, j)] for j in range(count)] for i in range(count)]


def write_sum(
    tensors: Sequence[Tensor], weights: Sequence[float], out: Tensor, base: Tensor | None = None
) -> None:
    """Write sum_i w_i x_i, or base + sum_i w_i (x_i - base); where w_i is 0, x_i is not read."""
    used = [(flat(x), w) for x, w in zip(tensors, weights, strict=True) if w != 0]
    target = flat(out)
    origin = None if base is None else flat(base)
    if not used:
        target.zero_() if origin is None else target.copy_(origin)
        return
    for a, b in spans(used[0][0]):
        if origin is None:
            (first, weight), rest = used[0], used[1:]
            result = load(first[a:b], "sum")
            if weight != 1:
                result.mul_(weight)
            for row, factor in rest:
                result.add_(load(row[a:b], "next"), alpha=factor)
        else:
            result = load(origin[a:b], "base")
            change = scratch(result, "sum").zero_()
            for row, factor in used:
                change.add_(load(row[a:b], "next").sub_(result), alpha=factor)
            result.add_(change)
        target[a:b].copy_(result)


def as_matrix(tensor: Tensor) -> Tensor:
    """Return a tensor of one dimension or more as a matrix: its first dimension by the rest."""
    return tensor.detach().reshape(tensor.shape[0], -1)


def row_products(
    left: Tensor, right: Tensor, base: Tensor | None = None, *, columns: bool = False
) -> Tensor:
    """Return the dot products of matching rows (or columns) of two matrices, less a base.

    Returns:
        float64, one a row (column).
    """
    height, width = left.shape
    result = torch.zeros(width if columns else height, dtype=torch.float64, device=left.device)
    step = min(max(width, 1), BLOCK)
    tall = max(BLOCK // step, 1)
    for top in range(0, height, tall):
        for at in range(0, width, step):
            tile = (slice(top, top + tall), slice(at, at + step))
            product, other = left[tile].float(), right[tile].float()
            if base is not None:
                start = base[tile].float()
                product, other = product - start, other - start
            product = product * other
            result[tile[1] if columns else tile[0]] += product.sum(0 if columns else 1).double()
    return result


def write_row_sum(
    tensors: Sequence[Tensor],
    weights: Sequence[Tensor],
    out: Tensor,
    base: Tensor | None = None,
    *,
    columns: bool = False,
) -> None:
    """`write_sum` with a weight for each row (or column) of the sources as matrices.

    Args:
        tensors: sources of two dimensions or more.
        weights: one a source: a number for each row (column).
        out: where the sum goes.
        base: what the sources are measured from, if anything.
        columns: whether a weight is for a column.
    """
    width = as_matrix(tensors[0]).shape[1]
    used = [(flat(x), w.float()) for x, w in zip(tensors, weights, strict=True)]
    target = flat(out)
    origin = None if base is None else flat(base)
    for a, b in spans(used[0][0], rows_of=max(width, 1)):
        result = scratch(used[0][0][a:b], "sum").zero_()
        start = None if origin is None else load(origin[a:b], "base")
        for row, weight in used:
            values = load(row[a:b], "next")
            if start is not None:
                values.sub_(start)
            factors = weight if columns else weight[a // width : b // width].unsqueeze(1)
            values.view(-1, width).mul_(factors)
            result.add_(values)
        target[a:b].copy_(result if start is None else start.add_(result))
