"""Choosing by magnitude: exactly k elements, the largest, lowest index first among equals.

bf16 differences tie massively, so a threshold alone would keep a different number. A choice is a
`Cut`: a magnitude and, for the elements of just that magnitude, an index. For one merge the cut
is found without a sort (`find_cut`), for many it is looked up in an `Order`; both give the same.
A NaN counts as larger than every number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evomerge.merge.passes import SPAN, scratch

Magnitudes = Callable[[slice], Tensor]
"""Gives the magnitudes (float32, not negative) of a slice of a flat tensor."""

_Array = np.ndarray[Any, Any]

_SAMPLE = 1 << 15


@dataclass(frozen=True)
class Cut:
    """A place in the order of falling magnitude; lowest index first among equals.

    An element is before the cut if its magnitude is above `magnitude`, or equals it at an index
    below `index`.
    """

    magnitude: float
    index: int

    def trim_(self, values: Tensor, start: int) -> Tensor:
        """Set to 0, in place, every element of a float32 span that is not before the cut.

        Args:
            values: elements `start` to `start + len(values)` of the flat tensor. A NaN stays.
            start: index of the first of them.
        """
        for part, bound in self._parts(values, start):
            if bound >= 0:
                torch.ops.aten.hardshrink.out(part, bound, out=part)
        return values

    def mask(self, magnitudes: Tensor, start: int, slot: int | str) -> Tensor:
        """Return 1 where an element is before the cut and 0 elsewhere, in a scratch buffer."""
        result = scratch(magnitudes, slot)
        done = 0
        for part, bound in self._parts(magnitudes, start):
            torch.gt(part, bound, out=result[done : done + part.numel()])
            done += part.numel()
        return result

    def _parts(self, values: Tensor, start: int) -> list[tuple[Tensor, float]]:
        """Split a span at `index`; an element of a part is before the cut if above its bound."""
        split = min(max(self.index - start, 0), values.numel())
        below = float(np.nextafter(np.float32(self.magnitude), np.float32(-1)))
        parts = [(values[:split], below), (values[split:], self.magnitude)]
        return [(part, bound) for part, bound in parts if part.numel()]


class Order:
    """Every cut of one tensor, from one sort; holds 4 bytes an element."""

    def __init__(self, magnitudes: Magnitudes, size: int):
        """Sort the `size` magnitudes (fewer than 2^32)."""
        self._magnitudes = magnitudes
        keys = np.empty(size, dtype=np.uint64)
        for a in range(0, size, SPAN):
            bits = _numpy(magnitudes(slice(a, a + SPAN))).view(np.uint32)
            b = a + len(bits)
            falling = np.uint32(0xFFFFFFFF) - bits
            keys[a:b] = falling.astype(np.uint64) << np.uint64(32)
            keys[a:b] |= np.arange(a, b, dtype=np.uint64)
        keys.sort()
        self._order = keys.astype(np.uint32)

    def cut(self, count: int) -> Cut:
        """Return the cut that has `count` (1 or more) elements before it."""
        last = int(self._order[count - 1])
        return _cut(float(self._magnitudes(slice(last, last + 1))), last)


def find_cut(magnitudes: Magnitudes, size: int, count: int) -> Cut:
    """Return the cut that has `count` (1 or more) of `size` elements before it, without a sort.

    Floyd and Rivest 1975 (doi 10.1145/360680.360691): a sample brackets the magnitude, one pass
    counts what is above the bracket and collects what is inside. A sample that misleads costs
    time, never exactness.
    """
    if size > 4 * _SAMPLE:
        low, high = _bracket(magnitudes, size, count)
        above, places, values = _collect(magnitudes, size, low, high)
        wanted = count - above
        if 0 < wanted <= len(values):
            magnitude, place = _nth(values, wanted)
            return _cut(magnitude, int(places[place]))
        if wanted > 0 and low == 0:
            return Cut(0.0, _nth_zero(magnitudes, size, wanted - len(values)) + 1)
    everything = [_numpy(magnitudes(slice(a, a + SPAN))).copy() for a in range(0, size, SPAN)]
    return _cut(*_nth(np.concatenate(everything), count))


def _cut(magnitude: float, last: int) -> Cut:
    return Cut(math.inf if math.isnan(magnitude) else magnitude, last + 1)


def _bracket(magnitudes: Magnitudes, size: int, count: int) -> tuple[float, float]:
    """Guess a low and a high magnitude with the cut between them, wide by 4 deviations."""
    stride = (size // _SAMPLE) | 1
    sample = np.sort(_numpy(magnitudes(slice(0, size, stride))))
    share = 1 - count / size
    slack = 4 * math.sqrt(share * (1 - share) / len(sample)) + 2 / len(sample)
    first = math.floor((share - slack) * len(sample))
    last = math.ceil((share + slack) * len(sample))
    low = float(sample[first]) if first >= 0 else 0.0
    high = float(sample[last]) if last < len(sample) else math.inf
    return (0.0 if math.isnan(low) else low), (math.inf if math.isnan(high) else high)


def _collect(
    magnitudes: Magnitudes, size: int, low: float, high: float
) -> tuple[int, _Array, _Array]:
    """Count magnitudes above `high`; return the others down to `low` (not 0) and their places."""
    above = 0
    places, values = [], []
    for a in range(0, size, SPAN):
        span = _numpy(magnitudes(slice(a, a + SPAN)))
        inside = span <= high
        above += len(span) - int(np.count_nonzero(inside))
        inside &= span >= low if low > 0 else span > 0
        found = np.flatnonzero(inside)
        places.append(found + a)
        values.append(span[found])
    return above, np.concatenate(places), np.concatenate(values)


def _nth(values: _Array, count: int) -> tuple[float, int]:
    """Return the magnitude that is `count`-th from the top, and where its element lies."""
    at = len(values) - count
    magnitude = np.partition(values, at)[at]
    if np.isnan(magnitude):
        return math.nan, int(np.flatnonzero(np.isnan(values))[count - 1])
    above = len(values) - int(np.count_nonzero(values <= magnitude))
    return float(magnitude), int(np.flatnonzero(values == magnitude)[count - above - 1])


def _nth_zero(magnitudes: Magnitudes, size: int, count: int) -> int:
    """Return the index of the `count`-th element whose magnitude is 0."""
    for a in range(0, size, SPAN):
        zeros = np.flatnonzero(_numpy(magnitudes(slice(a, a + SPAN))) == 0)
        if count <= len(zeros):
            return a + int(zeros[count - 1])
        count -= len(zeros)
    raise AssertionError("fewer zeros than counted")


def _numpy(values: Tensor) -> _Array:
    array: _Array = values.cpu().numpy()
    return array
