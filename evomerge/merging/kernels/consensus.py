"""The consensus of several changes of a base: their sum, or the sum of those with one sign."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from evomerge.merging.kernels.compiled import Array, compiled, fma, narrow, widen
from evomerge.merging.kernels.passes import BLOCK, add_scaled, scratch, spans, store_changed

Changes = Callable[[slice, Array], None]
"""Writes a span of the changes as float32, of shape (sources, elements of the span)."""


def write_consensus(
    changes: Changes,
    out: Array,
    base: Array,
    *,
    factors: Sequence[float],
    scale: float = 1.0,
    elect: bool,
    divisors: Sequence[float] | None = None,
    elected_factors: Sequence[float] | None = None,
    row_length: int = 1,
) -> None:
    """Write base + scale * (consensus of the changes).

    Args:
        factors: for each source, a factor on its change.
        elect: if False, the consensus is the sum of the changes. If True, each element takes the
            sign of that sum (positive where the sum is 0), and the consensus is the sum of the
            changes of this sign only; changes of the other sign, or of 0, do not count (TIES;
            Yadav et al. 2023). The next two arguments are used only then.
        divisors: for each source, a number of at least 0, of which one is above 0. The sum at an
            element is divided by the sum of the divisors of the sources that count there.
        elected_factors: for each source, a second factor, which does not take part in the election.
        row_length: spans have whole rows of this many elements.
    """
    origin, target, exact = base.reshape(-1), out.reshape(-1), np.float32(scale)
    weights = np.array(factors, dtype=np.float32)
    more = np.array(elected_factors or [1.0] * len(factors), dtype=np.float32)
    divide = np.array(divisors or [0.0] * len(factors), dtype=np.float32)
    # Half of the smallest divisor tells a sum of divisors from the 0 where no source counts.
    # Without divisors, every sum is divided by 1.
    least = np.float32(0.5) * divide[divide != 0].min() if divisors else np.float32(1)
    for span in spans(len(target), row_length=row_length):
        size = span.stop - span.start
        values = scratch(len(factors) * size, "changes").reshape(len(factors), size)
        changes(span, values)
        if elect:
            _elect(origin[span], values, weights, divide, least, more, exact, target[span])
        else:
            _add(origin[span], values, weights, exact, target[span])


@compiled
def _add(base: Array, changes: Array, factors: Array, scale: np.float32, out: Array) -> None:
    size = len(out)
    total = np.empty(BLOCK, dtype=np.float32)
    for at in range(0, size, BLOCK):
        stop = min(at + BLOCK, size)
        total[:] = np.float32(0)
        for k in range(len(changes)):
            add_scaled(changes[k][at:stop], factors[k], total[: stop - at])
        store_changed(base[at:stop], total, scale, out[at:stop])


@compiled
def _elect(
    base: Array,
    changes: Array,
    factors: Array,
    divisors: Array,
    least: np.float32,
    more: Array,
    scale: np.float32,
    out: Array,
) -> None:
    zero, size = np.float32(0), len(out)
    plain = np.empty(BLOCK, dtype=np.float32)
    total = np.empty(BLOCK, dtype=np.float32)
    divisor = np.empty(BLOCK, dtype=np.float32)
    for at in range(0, size, BLOCK):
        count = min(BLOCK, size - at)
        plain[:] = zero
        for k in range(len(changes)):
            change, factor = changes[k][at : at + count], factors[k]
            for i in range(count):  # without fma: equal changes of opposite signs give exactly 0
                plain[i] += change[i] * factor
        total[:] = zero
        divisor[:] = zero
        for k in range(len(changes)):
            change, factor = changes[k][at : at + count], factors[k]
            second, share = more[k], divisors[k]
            for i in range(count):
                product = change[i] * factor
                along = -product if plain[i] < zero else product  # above 0: it has the elected sign
                total[i] = fma(zero if along <= zero else along, second, total[i])  # NaN stays
                divisor[i] += share if along > zero else zero
        for i in range(count):
            mean = total[i] / (divisor[i] if divisor[i] > least else least)
            signed = -mean if plain[i] < zero else mean
            out[at + i] = narrow(fma(signed, scale, widen(base[at + i])), out)
