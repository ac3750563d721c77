"""How much an element varies over several sources' changes."""

from __future__ import annotations

import numpy as np

from evomerge.merge.kernels.compiled import LANES, Array, compiled, dot, fma
from evomerge.merge.kernels.passes import BLOCK


@compiled
def load_variance(changes: Array, out: Array) -> None:
    """Write the sum of squared distances from the mean of each column of float32 changes."""
    count = len(changes)
    share = np.float32(1 / count)
    mean = np.empty(BLOCK, dtype=np.float32)
    for at in range(0, len(out), BLOCK):
        size = min(BLOCK, len(out) - at)
        mean[:] = np.float32(0)
        for k in range(count):
            for i in range(size):
                mean[i] = fma(changes[k, at + i], share, mean[i])
        out[at : at + size] = np.float32(0)
        for k in range(count):
            for i in range(size):
                distance = changes[k, at + i] - mean[i]
                out[at + i] = fma(distance, distance, out[at + i])


@compiled
def add_energies(changes: Array, energies: Array) -> None:
    """Add the sum of squares of each row of float32 changes to float64 sums."""
    size = changes.shape[1]
    lanes = np.empty(LANES, dtype=np.float32)
    for at in range(0, size, BLOCK):
        end = min(at + BLOCK, size)
        for k in range(len(changes)):
            energies[k] += dot(changes[k, at:end], changes[k, at:end], lanes)
