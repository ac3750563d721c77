"""What several changes of a base agree on: their sum, or TIES' elected sign."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from evomerge.merge.compiled import Array, compiled, fma, narrow, stored, widen
from evomerge.merge.passes import BLOCK, scratch, spans

Changes = Callable[[slice, Array], None]
"""Writes a span of every source's change as float32, a row a source."""


def write(
    changes: Changes,
    out: Tensor,
    base: Tensor,
    *,
    factors: Sequence[float],
    scale: float = 1.0,
    elect: bool,
    shares: Sequence[float] | None = None,
    counted: Sequence[float] | None = None,
    rows_of: int = 1,
) -> None:
    """Write base + scale * agreed change.

    Args:
        changes: gives the sources' changes.
        out: where the merged tensor goes.
        base: what changes are measured from.
        factors: one a source: factor on its change.
        scale: factor on what is agreed.
        elect: whether the sign of the sum is elected, at 0 the positive one (TIES; Yadav et al.
            2023): a change of the other sign, or a change of 0, does not count. Otherwise the
            sum is what is agreed.
        shares: one a source, above 0: the elected sum is divided by the shares of those that
            count.
        counted: one a source: further factor on its change once the sign is elected.
        rows_of: spans hold whole rows of as many elements.
    """
    origin, target = stored(base), stored(out)
    weights = np.array(factors, dtype=np.float32)
    more = np.array(counted or [1.0] * len(factors), dtype=np.float32)
    divide = np.array(shares or [], dtype=np.float32)
    for span in spans(len(target), rows_of=rows_of):
        size = span.stop - span.start
        values = scratch(len(factors) * size, "changes").reshape(len(factors), size)
        changes(span, values)
        if elect:
            _elect(origin[span], values, weights, divide, more, np.float32(scale), target[span])
        else:
            _add(origin[span], values, weights, np.float32(scale), target[span])


@compiled
def _add(base: Array, changes: Array, factors: Array, scale: np.float32, out: Array) -> None:
    total = np.empty(BLOCK, dtype=np.float32)
    for at in range(0, len(out), BLOCK):
        size = min(BLOCK, len(out) - at)
        total[:] = np.float32(0)
        for k in range(len(changes)):
            change, factor = changes[k, at : at + size], factors[k]
            for i in range(size):
                total[i] = fma(change[i], factor, total[i])
        for i in range(size):
            out[at + i] = narrow(fma(total[i], scale, widen(base[at + i])), out)


@compiled
def _elect(
    base: Array,
    changes: Array,
    factors: Array,
    shares: Array,
    counted: Array,
    scale: np.float32,
    out: Array,
) -> None:
    zero, one = np.float32(0), np.float32(1)
    sign = np.empty(BLOCK, dtype=np.float32)
    total = np.empty(BLOCK, dtype=np.float32)
    divisor = np.empty(BLOCK, dtype=np.float32)
    least = np.float32(0.5) * shares.min() if len(shares) else one
    for at in range(0, len(out), BLOCK):
        size = min(BLOCK, len(out) - at)
        total[:] = zero
        divisor[:] = zero if len(shares) else one
        for k in range(len(changes)):
            change, factor = changes[k, at : at + size], factors[k]
            for i in range(size):
                total[i] += change[i] * factor
        for i in range(size):
            sign[i] = np.copysign(one, total[i])
        total[:] = zero
        for k in range(len(changes)):
            change, factor, more = changes[k, at : at + size], factors[k], counted[k]
            for i in range(size):
                along = change[i] * factor * sign[i]
                total[i] = fma(zero if along <= zero else along, more, total[i])
            if len(shares):
                for i in range(size):
                    along = change[i] * factor * sign[i]
                    divisor[i] += shares[k] if along > zero else zero
        for i in range(size):
            agreed = sign[i] * total[i] / max(divisor[i], least)
            out[at + i] = narrow(fma(agreed, scale, widen(base[at + i])), out)
