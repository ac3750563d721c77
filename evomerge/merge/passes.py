"""Passes over a tensor in spans that fit the cache, so that no float32 copy of it is made.

Arithmetic is float32. Elementwise operations give each element the same bits wherever a span
begins and however many threads share it; sums do not, so they are taken here, over fixed blocks,
in float64, in order.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

SPAN = 1 << 16
"""Elements a pass works on at once on a CPU: a few float32 buffers of it fit the L2 cache."""

SPAN_OFF_CPU = 1 << 24

_local = threading.local()


def spans(tensor: Tensor) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of every span of a flat tensor."""
    step = SPAN if tensor.device.type == "cpu" else SPAN_OFF_CPU
    for start in range(0, tensor.numel(), step):
        yield start, min(start + step, tensor.numel())


def scratch(like: Tensor, slot: int) -> Tensor:
    """Return a reused float32 buffer of `like`'s size and device; one a thread and slot."""
    buffers = _local.__dict__.setdefault("buffers", {})
    key = (slot, like.device)
    held = buffers.get(key)
    if held is None or held.numel() < like.numel():
        held = torch.empty(max(like.numel(), SPAN), dtype=torch.float32, device=like.device)
        buffers[key] = held
    return held[: like.numel()]


def flat(tensor: Tensor) -> Tensor:
    """Return the tensor as one row (a view where it is contiguous)."""
    return tensor.detach().reshape(-1)


def load(span: Tensor, slot: int) -> Tensor:
    """Return a span's values as float32 in a scratch buffer that may be written."""
    return scratch(span, slot).copy_(span)


def products(tensors: Sequence[Tensor], base: Tensor | None = None) -> list[list[float]]:
    """Return the dot products of every two tensors (of their differences from a base).

    A block of 4096 elements is summed by one thread in float64, blocks are added in order, so
    the bits do not depend on the number of threads.
    """
    rows = [flat(tensor) for tensor in tensors]
    origin = None if base is None else flat(base)
    sums = [[0.0] * len(rows) for _ in rows]
    for a, b in spans(rows[0]):
        spanned = [load(row[a:b], slot) for slot, row in enumerate(rows)]
        if origin is not None:
            start = load(origin[a:b], len(rows))
            for item in spanned:
                item.sub_(start)
        for i, left in enumerate(spanned):
            for j in range(i, len(spanned)):
                sums[i][j] += _dot(left, spanned[j])
    return [[sums[min(i, j)][max(i, j)] for j in range(len(rows))] for i in range(len(rows))]


def _dot(left: Tensor, right: Tensor) -> float:
    return float((left.double() * right.double()).sum())
