"""Ranks by magnitude within rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from evomerge.merge.kernels.compiled import Array, compiled
from evomerge.merge.kernels.noise import LOWEST, STEPS


def row_ranks(magnitudes: Array) -> tuple[Array, Array]:
    """Return the rank of each element in its row, and each row's mean rank by magnitude.

    Args:
        magnitudes: float32 matrix, not negative; compared to 9 significant bits, higher index
            above among equals.

    Returns:
        int16 matrix of -32768 (lowest) to 32767 (highest), and float32 of 0 to 1, one a row: the
        ranks' mean weighted by magnitude, 1/2 for a row of zeros.
    """
    ranks = np.empty(magnitudes.shape, dtype=np.int16)
    leans = np.empty(len(magnitudes), dtype=np.float32)
    _rank(magnitudes, _sorted_keys(magnitudes), _codes(magnitudes.shape[1]), ranks, leans)
    return ranks, leans


def _sorted_keys(magnitudes: Array) -> Array:
    """Return, row by row, keys in the order of rising magnitude; their lower half is the column."""
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
    """Return the rank of every place of a sorted row, int16 from -32768 to 32767."""
    if width == 1:
        return np.zeros(1, dtype=np.int16)
    steps = np.arange(width, dtype=np.float64) * ((STEPS - 1) / (width - 1))
    return (np.round(steps) + LOWEST).astype(np.int16)


@compiled
def _rank(magnitudes: Array, order: Array, codes: Array, ranks: Array, leans: Array) -> None:
    """Write the rank of each element, and each row's mean rank weighted by magnitude, 0 to 1."""
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
        leans[row] = np.float32(mean)
