"""The loop of consensus merging: masks of the sources, and the sum where enough of them agree."""

from __future__ import annotations

import numpy as np

from evomerge.merging.kernels.compiled import Array, compiled, fma, narrow, widen
from evomerge.merging.kernels.passes import BLOCK


@compiled
def store_agreed(
    base: Array,
    changes: Array,
    weights: Array,
    thresholds: Array,
    agree: np.float32,
    scale: np.float32,
    out: Array,
) -> None:
    """Round base + scale * total into a stored span, or the base where too few masks agree.

    total is the sum of weight * change over the sources. A source's mask is true at an element if
    |own| > threshold * |total - own|, where own is its own weight * change. Masks are computed in
    float64, so that neither rounding nor the order of the sources decides them; total is the
    float32 sum of task arithmetic, bit for bit. A NaN or an infinity stays, whatever the masks say.

    Args:
        base: the stored base.
        changes: float32 of shape (sources, elements).
        weights: float32, one number for each source.
        thresholds: float64, one number for each source.
        agree: number of masks that must be true at an element.
        scale: factor on the total.
        out: where the result goes.
    """
    zero, one = np.float32(0), np.float32(1)
    total = np.empty(BLOCK, dtype=np.float32)
    exact = np.empty(BLOCK, dtype=np.float64)
    votes = np.empty(BLOCK, dtype=np.float32)
    for at in range(0, len(out), BLOCK):
        count = min(BLOCK, len(out) - at)
        total[:] = zero
        exact[:] = 0.0
        votes[:] = zero
        for k in range(len(changes)):
            weight = np.float64(weights[k])
            for i in range(count):
                change = changes[k, at + i]
                total[i] = fma(change, weights[k], total[i])
                exact[i] += np.float64(change) * weight
        for k in range(len(changes)):
            weight, threshold = np.float64(weights[k]), thresholds[k]
            for i in range(count):
                own = np.float64(changes[k, at + i]) * weight
                votes[i] += one if abs(own) > threshold * abs(exact[i] - own) else zero
        for i in range(count):
            finite = total[i] - total[i] == zero
            kept = zero if finite and votes[i] < agree else total[i]
            out[at + i] = narrow(fma(kept, scale, widen(base[at + i])), out)
