"""Passes over tensors in spans that fit the cache, so that no float32 copy of them is made.

Arithmetic is float32. An elementwise operation gives an element the same bits wherever a span
begins and however many threads share it. A sum does not, so every sum is taken here: over blocks
that torch leaves to one thread each, added up in order in Python's float64.

What torch spends on a call beside the arithmetic is a tenth of a pass. So spans are cut by one
`split`, buffers are reused, and factors are tensors (a Python number costs a conversion a call).
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
"""Elements summed at once on a CPU; torch shares one sum among threads from 2^15 on."""


class _Buffers(threading.local):
    def __init__(self) -> None:
        self.held: dict[object, Tensor] = {}


_buffers = _Buffers()


def spans(tensor: Tensor, *, rows_of: int = 1) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of every span of a tensor; spans hold whole rows of `rows_of`."""
    step = _step(tensor, rows_of)
    for start in range(0, tensor.numel(), step):
        yield start, min(start + step, tensor.numel())


def pieces(tensors: Sequence[Tensor], *, rows_of: int = 1) -> Iterator[tuple[Tensor, ...]]:
    """Yield the same span of every tensor, as flat views, span after span."""
    step = _step(tensors[0], rows_of)
    return zip(*(torch.split(flat(tensor), step) for tensor in tensors), strict=True)


def _step(tensor: Tensor, rows_of: int) -> int:
    return max((SPAN if tensor.is_cpu else SPAN_OFF_CPU) // rows_of, 1) * rows_of


def scratch(like: Tensor, slot: int | str, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return a reused buffer of `like`'s size and device.

    Args:
        like: gives size and device.
        slot: a thread has one buffer for each; what it held is lost.
        dtype: always the same for the same slot.
    """
    size = like.numel()
    key = slot if like.is_cpu else (slot, like.device)
    held = _buffers.held.get(key)
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


def scalar(value: float) -> Tensor:
    """Return a number as a float32 tensor without dimensions, a factor for tensors anywhere."""
    return torch.tensor(value, dtype=torch.float32)


def total(values: Tensor) -> float:
    """Return the sum of a flat float32 tensor; its bits do not depend on the threads."""
    if not values.is_cpu:
        return float(values.sum(dtype=torch.float64))
    whole = values.numel() // BLOCK * BLOCK
    blocks = values[:whole].view(-1, BLOCK).sum(1)
    return sum(blocks.tolist(), float(values[whole:].sum()))


def products(tensors: Sequence[Tensor], base: Tensor | None = None) -> list[list[float]]:
    """Return the dot products of every two tensors, or of their differences from a base.

    Returns:
        a symmetric matrix, a row a tensor, to about 1e-8 of the tensors' lengths.
    """
    count = len(tensors)
    sums = [[0.0] * count for _ in tensors]
    for parts in pieces([*tensors, *(() if base is None else (base,))]):
        loaded = [load(part, slot) for slot, part in enumerate(parts)]
        if base is not None:
            for values in loaded[:count]:
                values.sub_(loaded[count])
        product = scratch(parts[0], "product")
        for i in range(count):
            for j in range(i, count):
                sums[i][j] += total(torch.mul(loaded[i], loaded[j], out=product))
    return [[sums[min(i, j)][max(i, j)] for j in range(count)] for i in range(count)]


def write_sum(
    tensors: Sequence[Tensor], weights: Sequence[float], out: Tensor, base: Tensor | None = None
) -> None:
    """Write sum_i w_i x_i, or base + sum_i w_i (x_i - base); where w_i is 0, x_i is not read."""
    used = [(x, w) for x, w in zip(tensors, weights, strict=True) if w != 0]
    if not used:
        out.zero_() if base is None else out.copy_(base)
        return
    if base is None and len(used) == 1 and used[0][1] == 1:
        out.copy_(used[0][0])
        return
    sources, factors = [x for x, _ in used], [w for _, w in used]
    if base is None and _is_interpolation(sources, factors, out):
        torch.lerp(sources[0], sources[1], factors[1], out=out)
        return
    if base is not None:
        for origin, target, *parts in pieces([base, out, *sources]):
            start = load(origin, "base")
            change = scratch(start, "sum").zero_()
            for part, factor in zip(parts, factors, strict=True):
                change.add_(load(part, "next").sub_(start), alpha=factor)
            target.copy_(start.add_(change))
        return
    first = scalar(factors[0])
    for part, target, *others in pieces([sources[0], out, *sources[1:]]):
        result = load(part, "sum")
        if factors[0] != 1:
            result.mul_(first)
        for other, factor in zip(others, factors[1:], strict=True):
            result.add_(load(other, "next"), alpha=factor)
        target.copy_(result)


def _is_interpolation(sources: Sequence[Tensor], factors: Sequence[float], out: Tensor) -> bool:
    """Whether a weighted sum is what `torch.lerp` does in one pass, in float32, rounding once."""
    dtypes = {tensor.dtype for tensor in (*sources, out)}
    return (
        len(sources) == 2
        and abs(sum(factors) - 1) < 1e-12
        and len(dtypes) == 1
        and dtypes <= {torch.float32, torch.bfloat16, torch.float16}
    )


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
    width = max(as_matrix(tensors[0]).shape[1], 1)
    factors = [weight.float() for weight in weights]
    top = 0
    more = [out] if base is None else [out, base]
    for parts in pieces([*tensors, *more], rows_of=width):
        target = parts[len(tensors)]
        start = None if base is None else load(parts[-1], "base")
        result = scratch(parts[0], "sum").zero_()
        rows = target.numel() // width
        for part, factor in zip(parts, factors, strict=False):
            values = load(part, "next")
            if start is not None:
                values.sub_(start)
            values.view(-1, width).mul_(factor if columns else factor[top : top + rows, None])
            result.add_(values)
        target.copy_(result if start is None else start.add_(result))
        top += rows
