"""The loops of SCE: the variance of each element over the sources, and the energy of a source."""

from __future__ import annotations

import numpy as np

from evomerge.merging.kernels.compiled import LANES, Array, compiled, dot, fma
from evomerge.merging.kernels.passes import BLOCK


@compiled
def load_variance(changes: Array, out: Array) -> None:
    """Write, for each element, the sum of squared differences from the mean over the sources.

    Args:
        changes: float32 of shape (sources, elements).
        out: float32, one number for each element.
    """
    count = len(changes)
    share = np.float32(1 / count)
    mean = np.empty(BLOCK, dtype=np.float32)
    for at in range(0, len(out), BLOCK):
        size = min(BLOCK, len(out) - at)
        # Distances are measured from the first source, so equal changes vary by exactly 0.
        first = changes[0, at : at + size]
        mean[:] = np.float32(0)
        for k in range(1, count):
            for i in range(size):
                mean[i] = fma(changes[k, at + i] - first[i], share, mean[i])
        out[at : at + size] = np.float32(0)
        for k in range(count):
            for i in range(size):
                distance = changes[k, at + i] - first[i] - mean[i]
                out[at + i] = fma(distance, distance, out[at + i])


@compiled
def add_energies(changes: Array, energies: Array) -> None:
    """Add the sum of squares of each source's changes to its energy.

    Args:
        changes: float32 of shape (sources, elements).
        energies: float64, one number for each source.
    """
    size = changes.shape[1]
    lanes = np.empty(LANES, dtype=np.float32)
    for at in range(0, size, BLOCK):
        end = min(at + BLOCK, size)
        for k in range(len(changes)):
            energies[k] += dot(changes[k, at:end], changes[k, at:end], lanes)
