"""Selecting exactly the k elements of largest magnitude; among equal ones, the lowest index first.

Differences of bf16 weights have few distinct magnitudes, so a threshold alone would select more or
fewer than k. So a selection is a `MagnitudeCut`: a magnitude, and an index for the elements of
exactly this magnitude. A NaN counts as larger than every number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from evomerge.merging.kernels.compiled import Array, compiled
from evomerge.merging.kernels.passes import spans

Magnitudes = Callable[[slice], Array]
"""Returns the magnitudes (float32, not negative) of a slice of a flat tensor, in a buffer that the
next call overwrites."""


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


class MagnitudeOrder:
    """The elements of a tensor of `size` (below 2^32) sorted by magnitude, for any number of cuts.

    It keeps 4 bytes for each element.
    """

    def __init__(self, magnitudes: Magnitudes, size: int):
        self._magnitudes = magnitudes
        falling = np.empty(size, dtype=np.uint32)
        for span in spans(size):
            falling[span] = np.uint32(0xFFFFFFFF) - magnitudes(span).view(np.uint32)
        self._order = np.argsort(falling, kind="stable").astype(np.uint32)

    def cut(self, count: int) -> MagnitudeCut:
        """Return the cut that has `count` (1 or more) elements before it."""
        last = int(self._order[count - 1])
        return _cut(float(self._magnitudes(slice(last, last + 1))[0]), last)


def find_cut(magnitudes: Magnitudes, size: int, count: int) -> MagnitudeCut:
    """Return the cut that has `count` (1 or more) of `size` elements before it, without sorting.

    Magnitudes are ordered like their bits. So the first pass counts elements by their upper 16
    bits, the second those with the right upper bits by the lower ones, and the third finds the
    index.
    """
    bits = np.uint32(0)
    for shift in (np.uint32(16), np.uint32(0)):
        counts = np.zeros(1 << 16, dtype=np.int64)
        for span in spans(size):
            _count(magnitudes(span).view(np.uint32), shift, bits, counts)
        largest_first = counts[::-1].cumsum()
        place = int(np.searchsorted(largest_first, count))
        count -= int(largest_first[place - 1]) if place else 0
        bits = np.uint32(int(bits) << 16 | (0xFFFF - place))
    for span in spans(size):
        equal = np.flatnonzero(magnitudes(span).view(np.uint32) == bits)
        if count <= len(equal):
            break
        count -= len(equal)
    return _cut(float(bits.view(np.float32)), span.start + int(equal[count - 1]))


@compiled
def _count(values: Array, shift: np.uint32, upper: np.uint32, counts: Array) -> None:
    """Count values (uint32) by 16 of their bits, where the bits above these are `upper`."""
    for i in range(len(values)):
        bits = values[i] >> shift
        if bits >> np.uint32(16) == upper:
            counts[bits & np.uint32(0xFFFF)] += 1


def _cut(magnitude: float, last: int) -> MagnitudeCut:
    return MagnitudeCut(math.inf if math.isnan(magnitude) else magnitude, last + 1)
