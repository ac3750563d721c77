"""Ranks of the elements of a row by their magnitude."""

from __future__ import annotations

from typing import Any

import numpy as np

from evomerge.merging.kernels.compiled import Array, compiled
from evomerge.merging.kernels.noise import LOWEST, STEPS


def row_ranks(magnitudes: Array) -> tuple[Array, Array]:
    """Return the rank of each element in its row, and the mean rank of each row.

    Args:
        magnitudes: float32 matrix, not negative. Magnitudes are compared to 9 significant bits;
            among equal ones the higher index ranks higher.

    Returns:
        the ranks, an int16 matrix from -32768 (smallest magnitude) to 32767 (largest); and the
        mean ranks, one float32 for each row: the mean of its ranks, weighted by magnitude and
        mapped to 0 .. 1 (1/2 for a row of zeros).
    """
    ranks = np.empty(magnitudes.shape, dtype=np.int16)
    mean_ranks = np.empty(len(magnitudes), dtype=np.float32)
    _rank(magnitudes, _sorted_keys(magnitudes), _codes(magnitudes.shape[1]), ranks, mean_ranks)
    return ranks, mean_ranks


def _sorted_keys(magnitudes: Array) -> Array:
    """Return the sorted keys of each row: magnitude in the upper half, column in the lower half."""
    narrow_rows = magnitudes.shape[1] <= 1 << 16
    keys = np.empty(magnitudes.shape, dtype=np.uint32 if narrow_rows else np.uint64)
    _write_keys(magnitudes.view(np.uint32), keys.dtype.type(16 if narrow_rows else 32), keys)
    keys.sort(axis=1)
    return keys


@compiled
def _write_keys(bits: Array, shift: Any, keys: Array) -> None:
    for row in range(len(bits)):
        for column in range(bits.shape[1]):
            keys[row, column] = (bits[row, column] >> np.uint32(15)) << shift | column


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
