"""Loops over spans of tensors. A span fits in the cache, so no float32 copy of a tensor is needed.

A merge method runs several compiled loops on a span, with float32 buffers that stay in the cache.
Sources are read once and the output is written once. Where spans begin does not change any bit of
the result. Sums are taken over blocks by `dot`, and the sums of blocks are added in float64; blocks
do not depend on threads.

In the names of this file, "load" converts stored weights (see `compiled`) to float32, and "store"
rounds float32 to the dtype of the output.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import numpy as np

from evomerge.merging.kernels.compiled import (
    LANES,
    Array,
    compiled,
    dot,
    fma,
    narrow,
    widen,
)

SPAN = 1 << 16
"""Elements that a pass works on at once; several float32 buffers of this size fit in L2 cache."""

BLOCK = 1 << 11
"""Elements that one `dot` sums. Buffers of this size fit in L1 cache."""

ONE = np.float32(1)


class _Buffers(threading.local):
    def __init__(self) -> None:
        self.held: dict[object, Array] = {}


_buffers = _Buffers()


def spans(size: int, *, row_length: int = 1) -> Iterator[slice]:
    """Yield the spans of `size` elements, in order; each has whole rows of `row_length`."""
    step = max(SPAN // row_length, 1) * row_length
    for start in range(0, size, step):
        yield slice(start, min(start + step, size))


def scratch(size: int, name: int | str) -> Array:
    """Return a float32 buffer of `size` elements, with any content.

    Each thread has one buffer for each name; the next call with the same name returns it again.
    """
    held = _buffers.held.get(name)
    if held is None or len(held) < size:
        held = np.empty(max(size, SPAN), dtype=np.float32)
        _buffers.held[name] = held
    return held[:size]


@compiled
def load(source: Array, out: Array) -> None:
    """Write a stored span as float32."""
    for i in range(len(out)):
        out[i] = widen(source[i])


@compiled
def load_scaled(source: Array, factor: np.float32, out: Array) -> None:
    """Write factor * source as float32."""
    for i in range(len(out)):
        out[i] = widen(source[i]) * factor


@compiled
def load_change(source: Array, base: Array, out: Array) -> None:
    """Write source - base as float32."""
    for i in range(len(out)):
        out[i] = widen(source[i]) - widen(base[i])


@compiled
def add_scaled(source: Array, factor: np.float32, total: Array) -> None:
    """Add factor * source to a float32 span."""
    for i in range(len(total)):
        total[i] = fma(widen(source[i]), factor, total[i])


@compiled
def add_change(source: Array, base: Array, factor: np.float32, total: Array) -> None:
    """Add factor * (source - base) to a float32 span."""
    for i in range(len(total)):
        total[i] = fma(widen(source[i]) - widen(base[i]), factor, total[i])


@compiled
def store(values: Array, out: Array) -> None:
    """Round a float32 span into a stored one."""
    for i in range(len(out)):
        out[i] = narrow(values[i], out)


@compiled
def store_changed(base: Array, change: Array, factor: np.float32, out: Array) -> None:
    """Round base + factor * change into a stored span; `change` is float32."""
    for i in range(len(out)):
        out[i] = narrow(fma(change[i], factor, widen(base[i])), out)


@compiled
def store_scaled(source: Array, factor: np.float32, out: Array) -> None:
    """Round factor * source into a stored span."""
    for i in range(len(out)):
        out[i] = narrow(widen(source[i]) * factor, out)


@compiled
def store_added(total: Array, source: Array, factor: np.float32, out: Array) -> None:
    """Round total + factor * source into a stored span; `total` is float32."""
    for i in range(len(out)):
        out[i] = narrow(fma(widen(source[i]), factor, total[i]), out)


@compiled
def store_last_change(
    base: Array, total: Array, source: Array, factor: np.float32, scale: np.float32, out: Array
) -> None:
    """Round base + scale * (total + factor * (source - base)) into a stored span."""
    for i in range(len(out)):
        start = widen(base[i])
        change = fma(widen(source[i]) - start, factor, total[i])
        out[i] = narrow(fma(change, scale, start), out)


@compiled
def interpolate(one: Array, two: Array, weight: np.float32, out: Array) -> None:
    """Round (1 - weight) * one + weight * two into a stored span; exact for weights 0 and 1."""
    if abs(weight) < np.float32(0.5):
        for i in range(len(out)):
            start = widen(one[i])
            out[i] = narrow(fma(weight, widen(two[i]) - start, start), out)
    else:
        rest = weight - np.float32(1)
        for i in range(len(out)):
            end = widen(two[i])
            out[i] = narrow(fma(rest, end - widen(one[i]), end), out)


def write_copy(source: Array, out: Array) -> None:
    """Write a tensor into `out`: bit for bit, or rounded once if `out` has another dtype."""
    if source.dtype == out.dtype:
        out[...] = source
    else:
        store_scaled(source.reshape(-1), ONE, out.reshape(-1))


def write_sum(
    tensors: Sequence[Array],
    weights: Sequence[float],
    out: Array,
    base: Array | None = None,
    scale: float = 1.0,
) -> None:
    """Write a weighted sum of tensors, or of their differences from a base.

    Without a base: out = sum_i w_i x_i. With one: out = base + scale sum_i w_i (x_i - base).

    Args:
        tensors: the x_i. One whose weight is 0 is not read.
        weights: the w_i.
        out: the sum is written here.
        base: the base, or None.
        scale: factor on the sum of differences; not used without a base.
    """
    used = [(x, np.float32(w)) for x, w in zip(tensors, weights, strict=True) if w != 0]
    if not used:
        if base is None:
            out[...] = 0
        else:
            write_copy(base, out)
        return
    if base is None and len(used) == 1 and used[0][1] == 1:
        write_copy(used[0][0], out)
        return
    target, sources = out.reshape(-1), [x.reshape(-1) for x, _ in used]
    factors = [w for _, w in used]
    if base is None and len(used) == 2 and abs(sum(weights) - 1) < 1e-12:
        interpolate(sources[0], sources[1], factors[1], target)
        return
    start = None if base is None else base.reshape(-1)
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


def write_change(change: Array, factor: float, base: Array, out: Array) -> None:
    """Write out = base + factor * change; without any change, the base bit for bit.

    Args:
        change: float32, of the base's shape.
        factor: factor on the change.
        base: what is changed.
        out: the sum is written here.
    """
    if not factor or not change.any():
        write_copy(base, out)
        return
    values, start, target = (item.reshape(-1) for item in (change, base, out))
    for span in spans(len(target)):
        store_changed(start[span], values[span], np.float32(factor), target[span])


def products(tensors: Sequence[Array], base: Array | None = None) -> list[list[float]]:
    """Return the dot product of every pair of tensors, or of their differences from a base.

    Returns:
        a symmetric matrix with a row for each tensor. Its errors are about 1e-8 of the product of
        the two lengths.
    """
    count = len(tensors)
    sources = [tensor.reshape(-1) for tensor in tensors]
    start = None if base is None else base.reshape(-1)
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
    """Add the dot product of every pair of float32 rows to the upper half of a float64 matrix."""
    count, size = values.shape
    lanes = np.empty(LANES, dtype=np.float32)
    for at in range(0, size, BLOCK):
        end = min(at + BLOCK, size)
        for i in range(count):
            for j in range(i, count):
                sums[i, j] += dot(values[i, at:end], values[j, at:end], lanes)


def changes(sources: Sequence[Array], base: Array) -> Iterator[tuple[slice, Array]]:
    """Yield every span of flat tensors, and the changes (source - base) of all sources in it.

    They are float32, of shape (sources, elements of the span); the next span overwrites them.
    """
    for span in spans(len(base)):
        size = span.stop - span.start
        values = scratch(len(sources) * size, "changes").reshape(len(sources), size)
        for row, source in zip(values, sources, strict=True):
            load_change(source[span], base[span], row)
        yield span, values


def as_matrix(tensor: Array) -> Array:
    """Return a tensor of one or more dimensions as a matrix: first dimension times all others."""
    return tensor.reshape(tensor.shape[0], -1)


def row_products(
    left: Array, right: Array, base: Array | None = None, *, columns: bool = False
) -> Array:
    """Return the dot product of each row of one matrix with the same row of another.

    Args:
        left: a matrix.
        right: a matrix of the same shape.
        base: a matrix that is subtracted from both first, or None.
        columns: whether to take columns instead of rows.

    Returns:
        float64, one number for each row (column).
    """
    height, width = left.shape
    result = np.zeros(width if columns else height)
    pair = left.reshape(-1), right.reshape(-1)
    start = None if base is None else base.reshape(-1)
    for row in range(height):
        for span in spans(width):
            at = slice(row * width + span.start, row * width + span.stop)
            values = scratch(2 * (span.stop - span.start), "rows").reshape(2, -1)
            for side, source in zip(values, pair, strict=True):
                _load_difference(
                    source[at], source[at] if start is None else start[at], start is None, side
                )
            if columns:
                _add_row_products(values, result[span])
            else:
                sums = np.zeros((2, 2))
                add_products(values, sums)
                result[row] += sums[0, 1]
    return result


@compiled
def _load_difference(source: Array, base: Array, whole: bool, out: Array) -> None:
    for i in range(len(source)):
        out[i] = widen(source[i]) - (np.float32(0) if whole else widen(base[i]))


@compiled
def _add_row_products(values: Array, sums: Array) -> None:
    for i in range(len(sums)):
        sums[i] += np.float64(values[0, i] * values[1, i])


def write_row_sum(
    tensors: Sequence[Array],
    weights: Sequence[Array],
    out: Array,
    base: Array | None = None,
    *,
    columns: bool = False,
) -> None:
    """Write a weighted sum as `write_sum`, with a weight for each row (or column) of each source.

    Args:
        tensors: sources of two or more dimensions, used as matrices (see `as_matrix`).
        weights: for each source, an array with a weight for each row (column).
        out: the sum is written here.
        base: the base that is subtracted from the sources and then added, or None.
        columns: whether there is a weight for each column instead of each row.
    """
    width = max(as_matrix(tensors[0]).shape[1], 1)
    target, sources = out.reshape(-1), [tensor.reshape(-1) for tensor in tensors]
    start = None if base is None else base.reshape(-1)
    factors = [weight.astype(np.float32) for weight in weights]
    for span in spans(len(target), row_length=width):
        total = scratch(span.stop - span.start, "sum")
        total[:] = 0
        rows = slice(span.start // width, span.stop // width)
        for source, factor in zip(sources, factors, strict=True):
            origin = source[span] if start is None else start[span]
            some = factor if columns else factor[rows]
            _add_weighted(source[span], origin, start is None, some, columns, width, total)
        if start is None:
            store(total, target[span])
        else:
            store_changed(start[span], total, ONE, target[span])


@compiled
def _add_weighted(
    source: Array, base: Array, whole: bool, factor: Array, columns: bool, width: int, total: Array
) -> None:
    for row in range(len(total) // width):
        for column in range(width):
            i = row * width + column
            value = widen(source[i]) - (np.float32(0) if whole else widen(base[i]))
            total[i] = fma(value, factor[column if columns else row], total[i])
