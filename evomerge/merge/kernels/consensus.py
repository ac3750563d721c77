"""What several changes of a base agree on: their sum, or TIES' elected sign."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from evomerge.merge.kernels.compiled import Array, compiled, fma, narrow, stored, widen
from evomerge.merge.kernels.passes import BLOCK, add_scaled, scratch, spans, store_changed

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
    shares: Array,
    counted: Array,
    scale: np.float32,
    out: Array,
) -> None:
    size = len(out)
    plain = np.empty(BLOCK, dtype=np.float32)
    total = np.empty(BLOCK, dtype=np.float32)
    divisor = np.empty(BLOCK, dtype=np.float32)
    for at in range(0, size, BLOCK):
        stop = min(at + BLOCK, size)
        plain[:] = np.float32(0)
        for k in range(len(changes)):
            _add_product(changes[k][at:stop], factors[k], plain)
        total[:] = np.float32(0)
        if len(shares):
            divisor[:] = np.float32(0)
            for k in range(len(changes)):
                change = changes[k][at:stop]
                _add_shared(change, factors[k], plain, counted[k], total, shares[k], divisor)
            least = np.float32(0.5) * shares.min()
            _store_mean(base[at:stop], plain, total, divisor, least, scale, out[at:stop])
        else:
            for k in range(len(changes)):
                _add_along(changes[k][at:stop], factors[k], plain, counted[k], total)
            _store_sum(base[at:stop], plain, total, scale, out[at:stop])


@compiled
def _add_product(change: Array, factor: np.float32, total: Array) -> None:
    """Add a product that is rounded by itself, so that equal changes of both signs cancel."""
    for i in range(len(change)):
        total[i] += change[i] * factor


@compiled
def _add_along(
    change: Array, factor: np.float32, plain: Array, more: np.float32, total: Array
) -> None:
    """Add the size of what goes along with the plain sum's sign; a NaN stays."""
    for i in range(len(change)):
        product = change[i] * factor
        along = -product if plain[i] < np.float32(0) else product
        total[i] = fma(np.float32(0) if along <= np.float32(0) else along, more, total[i])


@compiled
def _add_shared(
    change: Array,
    factor: np.float32,
    plain: Array,
    more: np.float32,
    total: Array,
    share: np.float32,
    divisor: Array,
) -> None:
    """`_add_along`, with the share of the change where it counts."""
    for i in range(len(change)):
        product = change[i] * factor
        along = -product if plain[i] < np.float32(0) else product
        total[i] = fma(np.float32(0) if along <= np.float32(0) else along, more, total[i])
        divisor[i] += share if along > np.float32(0) else np.float32(0)


@compiled
def _store_sum(base: Array, plain: Array, total: Array, scale: np.float32, out: Array) -> None:
    for i in range(len(out)):
        agreed = -total[i] if plain[i] < np.float32(0) else total[i]
        out[i] = narrow(fma(agreed, scale, widen(base[i])), out)


@compiled
def _store_mean(
    base: Array,
    plain: Array,
    total: Array,
    divisor: Array,
    least: np.float32,
    scale: np.float32,
    out: Array,
) -> None:
    for i in range(len(out)):
        mean = total[i] / (divisor[i] if divisor[i] > least else least)
        agreed = -mean if plain[i] < np.float32(0) else mean
        out[i] = narrow(fma(agreed, scale, widen(base[i])), out)
