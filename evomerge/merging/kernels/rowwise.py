"""Weighted sums and dot products for each row (or column) of matrices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evomerge.merging.kernels.compiled import Array, compiled, fma, widen
from evomerge.merging.kernels.passes import ONE, add_products, scratch, spans, store, store_changed


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
                _load(source[at], source[at] if start is None else start[at], start is None, side)
            if columns:
                _add_row(values, result[span])
            else:
                sums = np.zeros((2, 2))
                add_products(values, sums)
                result[row] += sums[0, 1]
    return result


@compiled
def _load(source: Array, base: Array, whole: bool, out: Array) -> None:
    for i in range(len(source)):
        out[i] = widen(source[i]) - (np.float32(0) if whole else widen(base[i]))


@compiled
def _add_row(values: Array, sums: Array) -> None:
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
            _add(source[span], origin, start is None, some, columns, width, total)
        if start is None:
            store(total, target[span])
        else:
            store_changed(start[span], total, ONE, target[span])


@compiled
def _add(
    source: Array, base: Array, whole: bool, factor: Array, columns: bool, width: int, total: Array
) -> None:
    for row in range(len(total) // width):
        for column in range(width):
            i = row * width + column
            value = widen(source[i]) - (np.float32(0) if whole else widen(base[i]))
            total[i] = fma(value, factor[column if columns else row], total[i])
