"""Ranks of magnitudes within the rows of a matrix."""

from __future__ import annotations

import numpy as np

from evomerge.merging.kernels.compiled import Array, compiled
from evomerge.merging.kernels.noise import LOWEST, STEPS


def row_ranks(magnitudes: Array) -> tuple[Array, Array]:
    """Return the rank of each element in its row, and the mean rank of each row.

    `magnitudes` is a float32 matrix, not negative. Ranks are int16, from -32768 (smallest) to 32767
    (largest). A mean rank is that of the row's ranks, weighted by magnitude and mapped to 0 .. 1
    (1/2 for a row of zeros).
    """
    ranks = np.empty(magnitudes.shape, dtype=np.int16)
    mean_ranks = np.empty(len(magnitudes), dtype=np.float32)
    _rank(magnitudes, _sorted_keys(magnitudes), _codes(magnitudes.shape[1]), ranks, mean_ranks)
    return ranks, mean_ranks


def _sorted_keys(magnitudes: Array) -> Array:
    """Return the sorted keys of each row: magnitude in the upper half, column in the lower half."""
    width = magnitudes.shape[1]
    kind = np.dtype(np.uint32 if width <= 1 << 16 else np.uint64)
    keys: Array = (magnitudes.view(np.uint32) >> 15).astype(kind)
    keys <<= 4 * kind.itemsize
    keys |= np.arange(width, dtype=kind)
    keys.sort(axis=1)
    return keys


def _codes(width: int) -> Array:
    """Return the rank of each position of a sorted row, int16 from -32768 to 32767."""
    if width == 1:
        return np.zeros(1, dtype=np.int16)
    steps = np.arange(width, dtype=np.float64) * ((STEPS - 1) / (width - 1))
    return (np.round(steps) + LOWEST).astype(np.int16)


@compiled
def _rank(magnitudes: Array, order: Array, codes: Array, ranks: Array, mean_ranks: Array) -> None:
    """Write the rank of each element and the mean rank of each row (see `row_ranks`)."""
    mask = order.dtype.type((1 << (order.itemsize * 4)) - 1)
    for row in range(len(magnitudes)):
        whole = weighted = 0.0
        for place in range(len(codes)):
            column = order[row, place] & mask
            ranks[row, column] = codes[place]
            magnitude = np.float64(magnitudes[row, column])
            whole += magnitude
            weighted += magnitude * codes[place]
        mean = (weighted / whole - LOWEST) / (STEPS - 1) if whole > 0 else 0.5
        mean_ranks[row] = np.float32(mean)
