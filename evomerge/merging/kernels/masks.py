"""The loops of consensus merging: masks of the sources, and the sum where enough of them agree."""

from __future__ import annotations

import numpy as np

from evomerge.merging.kernels.compiled import Array, compiled, fma, narrow, widen
from evomerge.merging.kernels.passes import BLOCK, add_scaled


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
    |own| > threshold * |total - own|, where own is its own weight * change. For the masks, total is
    exact (a float64, and the rest that it leaves), so that neither rounding nor the order of the
    sources decides one; it is exact while the largest change is less than 2^50 times the smallest.
    For the result, total is the float32 sum of task arithmetic, bit for bit. Where that is not
    finite, the result is not either, whatever the masks say.

    Args:
        base: the stored base.
        changes: float32 of shape (sources, elements).
        weights: float32, one number for each source.
        thresholds: float64, one number for each source.
        agree: number of masks that must be true at an element.
        scale: factor on the total.
        out: where the result goes.
    """
    total = np.empty(BLOCK, dtype=np.float32)
    exact = np.empty(BLOCK, dtype=np.float64)
    rest = np.empty(BLOCK, dtype=np.float64)
    votes = np.empty(BLOCK, dtype=np.float32)
    for at in range(0, len(out), BLOCK):
        stop = min(at + BLOCK, len(out))
        total[:] = np.float32(0)
        exact[:] = 0.0
        rest[:] = 0.0
        votes[:] = np.float32(0)
        for k in range(len(changes)):
            add_scaled(changes[k][at:stop], weights[k], total[: stop - at])
            _add_exactly(changes[k][at:stop], np.float64(weights[k]), exact, rest)
        for k in range(len(changes)):
            own, weight = changes[k][at:stop], np.float64(weights[k])
            _add_mask(own, weight, exact, rest, thresholds[k], votes)
        _store_agreed(base[at:stop], total, votes, agree, scale, out[at:stop])


@compiled
def _error(left: float, right: float, total: float) -> float:
    """Return left + right - total, where total is their rounded sum (Knuth's TwoSum)."""
    part = total - left
    return (left - (total - part)) + (right - part)


@compiled
def _add_exactly(change: Array, weight: np.float64, total: Array, rest: Array) -> None:
    for i in range(len(change)):
        own = np.float64(change[i]) * weight  # exact: 24 bits times 24 bits
        before = total[i]
        after = before + own
        rest[i] += _error(before, own, after)
        total[i] = after


@compiled
def _add_mask(
    change: Array,
    weight: np.float64,
    total: Array,
    rest: Array,
    threshold: np.float64,
    votes: Array,
) -> None:
    for i in range(len(change)):
        own = np.float64(change[i]) * weight
        others = total[i] - own
        others += rest[i] + _error(total[i], -own, others)
        votes[i] += np.float32(abs(own) > threshold * abs(others))


@compiled
def _store_agreed(
    base: Array, total: Array, votes: Array, agree: np.float32, scale: np.float32, out: Array
) -> None:
    for i in range(len(out)):
        lost = total[i] - total[i]  # 0, or NaN where the total is not finite
        kept = lost if votes[i] < agree else total[i]
        out[i] = narrow(fma(kept, scale, widen(base[i])), out)
