"""Selecting exactly the k elements of largest magnitude; among equal ones, the lowest index first.

A task vector of which those stay is a `Largest`.

Differences of bf16 weights have few distinct magnitudes, so a threshold alone would select more or
fewer than k. So a selection is a `MagnitudeCut`: a magnitude, and an index for the elements of
exactly this magnitude. A NaN counts as larger than every number.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from evomerge.merging.kernels.compiled import LANES, Array, compiled
from evomerge.merging.kernels.passes import (
    BLOCK,
    SPAN,
    Sparse,
    TaskVector,
    WriteSparse,
    scratch,
    spans,
)

Magnitudes = Callable[["slice | Array"], Array]
"""Returns the magnitudes (float32, not negative) of a slice of a flat tensor, or at indices, in a
buffer that the next call overwrites."""

_SAMPLE = 1 << 15

_RUN = 16
"""Neighbouring elements that are sampled together, since one read of memory loads all of them."""


@dataclass(frozen=True)
class MagnitudeCut:
    """A position in the order of falling magnitude (lowest index first among equal magnitudes).

    An element is before the cut if its magnitude is above `magnitude`, or is equal to it and the
    element's index is below `index`.
    """

    magnitude: float
    index: int

    def clear(self, values: Array, start: int, *, before: bool) -> None:
        """Set to 0 the elements of a float32 span that are before the cut, or the others.

        A NaN stays. `start` is the index of the first element in the flat tensor.
        """
        split = min(max(self.index - start, 0), len(values))
        bound = np.float32(self.magnitude)
        _clear(values[:split], np.nextafter(bound, np.float32(-1)), before)
        _clear(values[split:], bound, before)


@compiled
def _clear(values: Array, bound: np.float32, above: bool) -> None:
    """Set to 0 the values whose magnitude is above a bound, or the others."""
    for i in range(len(values)):
        goes = abs(values[i]) > bound if above else abs(values[i]) <= bound
        values[i] = np.float32(0) if goes else values[i]


def falling(magnitudes: Magnitudes, size: int) -> Array:
    """Return the indices (uint32) of the elements of a tensor, sorted by falling magnitude."""
    keys = np.empty(size, dtype=np.uint32)
    for span in spans(size):
        keys[span] = np.uint32(0xFFFFFFFF) - magnitudes(span).view(np.uint32)
    return np.argsort(keys, kind="stable").astype(np.uint32)


def find_cut(magnitudes: Magnitudes, size: int, count: int) -> MagnitudeCut:
    """Return the cut that has `count` (1 or more) of `size` elements before it, without sorting.

    After Floyd and Rivest 1975 (doi 10.1145/360680.360691): a sample gives a bracket, two
    magnitudes with the cut between them. One pass counts the elements above the bracket and
    collects those inside. Elements equal to one of the two magnitudes are counted as well, since
    there may be many of them. If the bracket turns out to be wrong, all elements are searched: the
    result is exact in any case.
    """
    if size > 4 * _SAMPLE:
        low, high = _bracket(magnitudes, size, count)
        counts, places, values = _collect(magnitudes, size, low, high)
        above, highest, lowest = (int(number) for number in counts.sum(0))
        wanted = count - above
        if 0 < wanted <= highest:
            return _cut(high, _nth_equal(magnitudes, size, high, counts[:, 1], wanted))
        wanted -= highest
        if 0 < wanted <= len(values):
            magnitude, place = _nth(values, wanted)
            return _cut(magnitude, int(places[place]))
        wanted -= len(values)
        if 0 < wanted <= lowest:
            return _cut(low, _nth_equal(magnitudes, size, low, counts[:, 2], wanted))
    everything = [magnitudes(span).copy() for span in spans(size)]
    return _cut(*_nth(np.concatenate(everything), count))


def _cut(magnitude: float, last: int) -> MagnitudeCut:
    return MagnitudeCut(math.inf if math.isnan(magnitude) else magnitude, last + 1)


def _bracket(magnitudes: Magnitudes, size: int, count: int) -> tuple[float, float]:
    """Return a low and a high magnitude that most likely have the cut between them.

    They are the sample's quantiles 4 standard deviations below and above the wanted one.
    """
    starts = np.arange(0, size - _RUN, size // (_SAMPLE // _RUN))
    sample = np.sort(magnitudes((starts[:, None] + np.arange(_RUN)).ravel()))
    share = 1 - count / size
    slack = 4 * math.sqrt(share * (1 - share) / len(sample)) + 2 / len(sample)
    first = math.floor((share - slack) * len(sample))
    last = math.ceil((share + slack) * len(sample))
    low = float(sample[first]) if first >= 0 else 0.0
    high = float(sample[last]) if last < len(sample) else math.inf
    return (0.0 if math.isnan(low) else low), (math.inf if math.isnan(high) else high)


def _collect(
    magnitudes: Magnitudes, size: int, low: float, high: float
) -> tuple[Array, Array, Array]:
    """Count the magnitudes above and at the ends of a bracket, and collect those inside.

    A row of counts, for each span, has how many are above it, at its high and at its low end.
    """
    counts = np.zeros((-(-size // SPAN), 3), dtype=np.int64)
    places, values = [], []
    for number, span in enumerate(spans(size)):
        some = magnitudes(span)
        above = len(some) - np.count_nonzero(some <= high)  # as a NaN is
        lowest = np.count_nonzero(some == low) if low < high else 0
        counts[number] = above, np.count_nonzero(some == high), lowest
        inside = np.flatnonzero((some > low) & (some < high))
        places.append(inside + span.start)
        values.append(some[inside])
    return counts, np.concatenate(places), np.concatenate(values)


def _nth(values: Array, count: int) -> tuple[float, int]:
    """Return the `count`-th largest magnitude and the index of its element."""
    bits = values.view(np.uint32)  # in the order of the magnitudes; those of a NaN are largest
    at = len(bits) - count
    magnitude = np.partition(bits, at)[at]
    above = int(np.count_nonzero(bits > magnitude))
    equal = np.flatnonzero(bits == magnitude)
    return float(magnitude.view(np.float32)), int(equal[count - above - 1])


def _nth_equal(magnitudes: Magnitudes, size: int, value: float, counts: Array, wanted: int) -> int:
    """Return the index of the `wanted`-th element that has exactly the magnitude `value`."""
    number = int(np.searchsorted(counts.cumsum(), wanted))
    start = number * SPAN
    some = magnitudes(slice(start, min(start + SPAN, size)))
    equal = np.flatnonzero(some == np.float32(value))
    return start + int(equal[wanted - int(counts[:number].sum()) - 1])


class Largest(TaskVector):
    """A task vector of which the elements of some ranks of magnitude stay."""

    _order: Array | None = None

    def keep(self) -> None:
        """Sort the magnitudes."""
        self._order = falling(self.magnitudes, self.size)

    def select(self, rescale: bool, *, density: float, gamma: float = 0.0) -> Sparse:
        """Of n elements, the floor(density n) largest stay (TIES), but not the very largest.

        The floor(gamma n) largest go before (Breadcrumbs); if these are more than n together, fewer
        of the largest go. Among equal magnitudes, the lowest index is the larger one. `rescale`
        keeps the L1 norm of the task vector.
        """
        count = int(density * self.size)
        skipped = min(int(gamma * self.size), self.size - count)
        if count <= 0:
            return None
        if not skipped and count >= self.size:
            return 1.0, self.load
        lower = self._cut(skipped + count)
        upper = self._cut(skipped) if skipped else None

        def write(span: slice, out: Array) -> None:
            self.load(span, out)
            lower.clear(out, span.start, before=False)
            if upper is not None:
                upper.clear(out, span.start, before=True)

        return (self._factor(write) if rescale else 1.0), write

    def _cut(self, count: int) -> MagnitudeCut:
        """Return the cut that has `count` elements before it."""
        if self._order is None:
            return find_cut(self.magnitudes, self.size, count)
        last = int(self._order[count - 1])
        return _cut(float(self.magnitudes(slice(last, last + 1))[0]), last)

    def _factor(self, write: WriteSparse) -> float:
        """Return the L1 norm of the task vector divided by that of the sparse one."""
        whole = kept = 0.0
        for span in spans(self.size):
            values = scratch(span.stop - span.start, "sparse")
            write(span, values)
            kept += _sum(np.abs(values))
            whole += _sum(self.magnitudes(span))
        return whole / kept if kept else 1.0


def _sum(values: Array) -> float:
    """Return the sum of a float32 span, in the order in which `dot` adds."""
    padded = np.zeros(-(-len(values) // BLOCK) * BLOCK, dtype=np.float32)
    padded[: len(values)] = values
    lanes = padded.reshape(-1, BLOCK // LANES, LANES).sum(1)
    return float(lanes.cumsum(dtype=np.float64)[-1])
