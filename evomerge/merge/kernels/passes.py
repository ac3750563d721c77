"""Passes over tensors in spans that fit the cache, so that no float32 copy of them is made.

What a method does with a span is a row of compiled loops over float32 buffers, which stay in the
cache; the sources are read once and the output is written once. An element has the same bits
wherever a span begins. Sums are taken by `dot` over blocks that do not depend on spans or threads,
and added up in float64.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor

from evomerge.merge.kernels.compiled import LANES, Array, compiled, dot, fma, narrow, stored, widen

SPAN = 1 << 16
"""Elements a pass works on at once: some float32 buffers of it fit the L2 cache."""

BLOCK = 1 << 11
"""Elements that one `dot` sums, or that buffers of the L1 cache hold."""

ONE = np.float32(1)


class _Buffers(threading.local):
    def __init__(self) -> None:
        self.held: dict[object, Array] = {}


_buffers = _Buffers()


def spans(size: int, *, rows_of: int = 1) -> Iterator[slice]:
    """Yield the spans of `size` elements; they hold whole rows of `rows_of`."""
    step = max(SPAN // rows_of, 1) * rows_of
    for start in range(0, size, step):
        yield slice(start, min(start + step, size))


def scratch(size: int, slot: int | str) -> Array:
    """Return a reused float32 buffer; a thread has one for each slot, and what it held is lost."""
    held = _buffers.held.get(slot)
    if held is None or len(held) < size:
        held = np.empty(max(size, SPAN), dtype=np.float32)
        _buffers.held[slot] = held
    return held[:size]


@compiled
def load(source: Array, out: Array) -> None:
    """Write a stored span as float32."""
    for i in range(len(out)):
        out[i] = widen(source[i])


@compiled
def load_scaled(source: Array, factor: np.float32, out: Array) -> None:
    """Write the factor times a stored span as float32."""
    for i in range(len(out)):
        out[i] = widen(source[i]) * factor


@compiled
def load_change(source: Array, base: Array, out: Array) -> None:
    """Write what a stored span adds to a base's as float32."""
    for i in range(len(out)):
        out[i] = widen(source[i]) - widen(base[i])


@compiled
def add_scaled(source: Array, factor: np.float32, total: Array) -> None:
    """Add the factor times a stored span to a float32 span."""
    for i in range(len(total)):
        total[i] = fma(widen(source[i]), factor, total[i])


@compiled
def add_change(source: Array, base: Array, factor: np.float32, total: Array) -> None:
    """Add the factor times what a stored span adds to a base's."""
    for i in range(len(total)):
        total[i] = fma(widen(source[i]) - widen(base[i]), factor, total[i])


@compiled
def store(values: Array, out: Array) -> None:
    """Round a float32 span into a stored one."""
    for i in range(len(out)):
        out[i] = narrow(values[i], out)


@compiled
def store_changed(base: Array, change: Array, factor: np.float32, out: Array) -> None:
    """Round base + factor * change into a stored span; the change is float32."""
    for i in range(len(out)):
        out[i] = narrow(fma(change[i], factor, widen(base[i])), out)


@compiled
def store_scaled(source: Array, factor: np.float32, out: Array) -> None:
    """Round the factor times a stored span into another."""
    for i in range(len(out)):
        out[i] = narrow(widen(source[i]) * factor, out)


@compiled
def store_added(total: Array, source: Array, factor: np.float32, out: Array) -> None:
    """Round a float32 span plus the factor times a stored one into a stored span."""
    for i in range(len(out)):
        out[i] = narrow(fma(widen(source[i]), factor, total[i]), out)


@compiled
def store_last_change(
    base: Array, total: Array, source: Array, factor: np.float32, scale: np.float32, out: Array
) -> None:
    """`add_change` and `store_changed` at once."""
    for i in range(len(out)):
        start = widen(base[i])
        change = fma(widen(source[i]) - start, factor, total[i])
        out[i] = narrow(fma(change, scale, start), out)


@compiled
def interpolate(one: Array, two: Array, weight: np.float32, out: Array) -> None:
    """Round (1 - weight) one + weight two into a stored span, exact at both ends."""
    if abs(weight) < np.float32(0.5):
        for i in range(len(out)):
            start = widen(one[i])
            out[i] = narrow(fma(weight, widen(two[i]) - start, start), out)
    else:
        rest = weight - np.float32(1)
        for i in range(len(out)):
            end = widen(two[i])
            out[i] = narrow(fma(rest, end - widen(one[i]), end), out)


def write_sum(
    tensors: Sequence[Tensor],
    weights: Sequence[float],
    out: Tensor,
    base: Tensor | None = None,
    scale: float = 1.0,
) -> None:
    """Write sum_i w_i x_i, or base + scale sum_i w_i (x_i - base); x_i is not read if w_i is 0."""
    used = [(x, np.float32(w)) for x, w in zip(tensors, weights, strict=True) if w != 0]
    if not used:
        out.zero_() if base is None else out.copy_(base)
        return
    if base is None and len(used) == 1 and used[0][1] == 1:
        out.copy_(used[0][0])
        return
    target, sources, factors = stored(out), [stored(x) for x, _ in used], [w for _, w in used]
    if base is None and len(used) == 2 and abs(sum(weights) - 1) < 1e-12:
        interpolate(sources[0], sources[1], factors[1], target)
        return
    start = None if base is None else stored(base)
    for span in spans(len(target)):
        total = scratch(span.stop - span.start, "sum")
        if start is None:
            if len(sources) == 1:
                store_scaled(sources[0][span], factors[0], target[span])
                continue
            load_scaled(sources[0][span], factors[0], total)
            for source, factor in zip(sources[1:-1], factors[1:-1], strict=True):
                add_scaled(source[span], factor, total)
            store_added(total, sources[-1][span], factors[-1], target[span])
        else:
            total[:] = 0
            for source, factor in zip(sources[:-1], factors[:-1], strict=True):
                add_change(source[span], start[span], factor, total)
            last = sources[-1][span], factors[-1], np.float32(scale)
            store_last_change(start[span], total, *last, target[span])


def products(tensors: Sequence[Tensor], base: Tensor | None = None) -> list[list[float]]:
    """Return the dot products of every two tensors, or of their differences from a base.

    Returns:
        a symmetric matrix, a row a tensor, to about 1e-8 of the tensors' lengths.
    """
    count = len(tensors)
    sources = [stored(tensor) for tensor in tensors]
    start = None if base is None else stored(base)
    sums = np.zeros((count, count))
    for span in spans(len(sources[0])):
        size = span.stop - span.start
        values = scratch(count * size, "products").reshape(count, size)
        for row, source in zip(values, sources, strict=True):
            if start is None:
                load(source[span], row)
            else:
                load_change(source[span], start[span], row)
        add_products(values, sums)
    return [[float(sums[min(i, j), max(i, j)]) for j in range(count)] for i in range(count)]


@compiled
def add_products(values: Array, sums: Array) -> None:
    """Add the dot products of every two float32 rows to the upper half of a float64 matrix."""
    count, size = values.shape
    lanes = np.empty(LANES, dtype=np.float32)
    for at in range(0, size, BLOCK):
        end = min(at + BLOCK, size)
        for i in range(count):
            for j in range(i, count):
                sums[i, j] += dot(values[i, at:end], values[j, at:end], lanes)


@compiled
def store_moved(source: Array, base: Array, most: np.float32, out: Array) -> None:
    """Round a base moved towards a source, by `most` at most, into a stored span."""
    for i in range(len(out)):
        start = widen(base[i])
        change = widen(source[i]) - start
        change = most if change > most else (-most if change < -most else change)
        out[i] = narrow(start + change, out)


@compiled
def store_chosen(source: Array, base: Array, chosen: Array, out: Array) -> None:
    """Write a source where `chosen` (bool) is true, and a base elsewhere and where it is NaN."""
    for i in range(len(out)):
        start = widen(base[i])
        taken = chosen[i] and start == start
        out[i] = narrow(widen(source[i]) if taken else start, out)
