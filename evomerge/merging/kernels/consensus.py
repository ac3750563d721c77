"""The consensus of several changes of a base: their sum, or the sum of those with one sign."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from evomerge.merging.kernels.compiled import LANES, Array, compiled, dot
from evomerge.merging.kernels.passes import (
    BLOCK,
    add_gradient_products,
    add_scaled,
    scratch,
    spans,
    store_changed,
)

MARGIN = 0.3
"""Largest share of a plain sum in the sum of magnitudes at which a sign counts as about to turn."""

Changes = Callable[[slice, Array], None]
"""Writes a span of the changes as float32, of shape (sources, elements of the span)."""


@dataclass(frozen=True, kw_only=True)
class Consensus:
    """The consensus of several changes of a base, each times its factor.

    It is their sum; or, where signs are elected, each element takes the sign of that sum (positive
    where the sum is 0), and the consensus is the sum of the changes of this sign only (TIES; Yadav
    et al. 2023).

    Attributes:
        divisors: where signs are elected, for each source, a number of at least 0, of which one is
            above 0. The sum at an element is divided by those of the sources that count there.
        row_length: spans have whole rows of this many elements.
    """

    changes: Changes
    factors: Sequence[float]
    divisors: Sequence[float] | None = None
    row_length: int = 1

    def write(self, out: Array, base: Array, scale: float = 1.0, *, elect: bool) -> None:
        """Write base + scale * consensus; `elect`: signs are elected."""
        origin, target, exact = base.reshape(-1), out.reshape(-1), np.float32(scale)
        weights = np.array(self.factors, dtype=np.float32)
        divide, least = self._divisors()
        for span, values in self._loaded(len(target)):
            if elect:
                _store_elected(origin[span], values, weights, divide, least, exact, target[span])
                continue
            total = scratch(values.shape[1], "sum")
            total[:] = 0
            for change, weight in zip(values, weights, strict=True):
                add_scaled(change, weight, total)
            store_changed(origin[span], total, exact, target[span])

    def products(self, gradient: Array) -> list[float]:
        """Return the dot product of a flat gradient (float32) with each change."""
        sums = np.zeros(len(self.factors))
        for span, values in self._loaded(len(gradient)):
            add_gradient_products(gradient[span], values, sums)
        return list(map(float, sums))

    def elected_products(
        self, gradient: Array, margin: float = MARGIN
    ) -> tuple[list[float], list[float], float]:
        """Return dot products of a gradient from which those of an elected consensus follow.

        Where the election turns, the consensus jumps. A loss of many elements has a gradient there,
        too: their number in a small step. So the jump of an element counts if the magnitude of its
        plain sum is below the share `margin` of the sum of magnitudes, with the density of a
        uniform distribution over these sums.

        A source with the factor 0 takes no part in the election, and counts where it would with a
        small positive factor: where its change has the elected sign, or where the sum is 0. If
        there are divisors, it does not count where no other source does, since the consensus jumps
        there.

        Returns:
            for each source <gradient / divisor, its change> over the elements where it counts, with
            the jumps; <gradient / divisor, consensus> over the same elements; <gradient, consensus>
            over all elements.
        """
        count = len(self.factors)
        weights = np.array(self.factors, dtype=np.float32)
        divide, least = self._divisors()
        numbers = least, np.float32(0 if self.divisors else 1), np.float32(margin)
        sums = np.zeros((count + 1, 2))
        for span, values in self._loaded(len(gradient)):
            _add_elected(gradient[span], values, weights, divide, numbers, sums)
        each, shared = (sums[:count, column].tolist() for column in (0, 1))
        return each, shared, float(sums[count, 1])

    def _loaded(self, size: int) -> Iterator[tuple[slice, Array]]:
        """Yield each span and its changes, (count, elements of the span), in a buffer."""
        for span in spans(size, row_length=self.row_length):
            shape = len(self.factors), span.stop - span.start
            values = scratch(math.prod(shape), "changes").reshape(shape)
            self.changes(span, values)
            yield span, values

    def _divisors(self) -> tuple[Array, np.float32]:
        """Return the divisors, and a number that tells a sum of them from the 0 where none counts.

        Without divisors, every sum is divided by that number, which is 1.
        """
        if self.divisors is None:
            return np.zeros(len(self.factors), dtype=np.float32), np.float32(1)
        divide = np.array(self.divisors, dtype=np.float32)
        return divide, np.float32(0.5) * divide[divide != 0].min(initial=np.float32(1))


@compiled
def _store_elected(
    base: Array,
    changes: Array,
    factors: Array,
    divisors: Array,
    least: np.float32,
    scale: np.float32,
    out: Array,
) -> None:
    buffers = np.empty((3, BLOCK), dtype=np.float32)
    signs, total, divisor = buffers[0], buffers[1], buffers[2]
    for at in range(0, len(out), BLOCK):
        stop = min(at + BLOCK, len(out))
        _elect(changes, at, stop, factors, total, signs)
        _average(changes, at, stop, factors, divisors, least, signs, total, divisor)
        store_changed(base[at:stop], total, scale, out[at:stop])


@compiled
def _add_elected(
    gradient: Array,
    changes: Array,
    factors: Array,
    divisors: Array,
    numbers: tuple[np.float32, np.float32, np.float32],
    sums: Array,
) -> None:
    """Add the products of `elected_products`: a row for each source, and one for all of them.

    `numbers`: `least` of `_divisors`, the gradient's factor where no divisor counts, the margin.
    """
    (least, alone, margin), zero, one = numbers, np.float32(0), np.float32(1)
    buffers = np.empty((9, BLOCK), dtype=np.float32)
    plain, signs, total = buffers[0], buffers[1], buffers[2]
    other, divisor, whole = buffers[3], buffers[4], buffers[5]
    share, edge, counted = buffers[6], buffers[7], buffers[8]
    lanes = np.empty(LANES, dtype=np.float32)
    for at in range(0, len(gradient), BLOCK):
        stop = min(at + BLOCK, len(gradient))
        count, pull = stop - at, gradient[at:stop]
        _elect(changes, at, stop, factors, plain, signs)
        signs *= np.float32(-1)
        _average(changes, at, stop, factors, divisors, least, signs, other, divisor)
        signs *= np.float32(-1)
        _average(changes, at, stop, factors, divisors, least, signs, total, divisor)
        whole[:] = zero
        for k in range(len(changes)):
            change, factor = changes[k][at:stop], factors[k]
            for i in range(count):
                whole[i] += abs(change[i] * factor)
        for i in range(count):
            inverse = one / max(divisor[i], least)
            share[i] = pull[i] * (inverse if divisor[i] > least else alone)
            width = margin * whole[i]
            density = (abs(total[i]) + abs(other[i])) / (width + width)
            edge[i] = pull[i] * (density if abs(plain[i]) < width else zero)
        sums[len(changes), 1] += dot(pull, total[:count], lanes)
        for k in range(len(changes)):
            change, factor = changes[k][at:stop], factors[k]
            for i in range(count):
                along = change[i] * factor * signs[i]
                if factor == zero:
                    along = change[i] * signs[i] if plain[i] != zero else one
                counted[i] = share[i] if along > zero else zero
            sums[k, 1] += dot(counted[:count], total[:count], lanes)
            for i in range(count):
                counted[i] += edge[i]
            sums[k, 0] += dot(counted[:count], change, lanes)


@compiled
def _elect(changes: Array, at: int, stop: int, factors: Array, plain: Array, signs: Array) -> None:
    """Write the sum whose sign is elected, and this sign, for a block."""
    plain[:] = np.float32(0)
    for k in range(len(changes)):
        change, factor = changes[k][at:stop], factors[k]
        for i in range(len(change)):  # without fma: equal changes of opposite signs give exactly 0
            plain[i] += change[i] * factor
    for i in range(len(plain)):
        signs[i] = np.float32(-1) if plain[i] < np.float32(0) else np.float32(1)


@compiled
def _average(
    changes: Array,
    at: int,
    stop: int,
    factors: Array,
    divisors: Array,
    least: np.float32,
    signs: Array,
    total: Array,
    divisor: Array,
) -> None:
    """Write the sum of the changes that have a sign, divided, and the divisor, for a block."""
    zero, count = np.float32(0), stop - at
    total[:] = zero
    divisor[:] = zero
    for k in range(len(changes)):
        change, factor = changes[k][at:stop], factors[k]
        share = divisors[k]
        for i in range(count):
            along = change[i] * factor * signs[i]  # above 0: it has the elected sign
            total[i] += zero if along <= zero else along  # NaN stays
            divisor[i] += share if along > zero else zero
    for i in range(count):
        total[i] = total[i] / (divisor[i] if divisor[i] > least else least) * signs[i]
