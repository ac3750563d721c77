"""Choosing by magnitude: exactly k elements, the largest, lowest index first among equals."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cut:
    """A place in the order of falling magnitude; lowest index first among equals.

    An element is before the cut if its magnitude is above `magnitude`, or equal to it at an
    index below `index`.
    """

    magnitude: float
    index: int

    def trim_(self, values: Tensor, start: int) -> Tensor:
        """Set to 0, in place, every element of a float32 span that is not before the cut.

        Args:
            values: elements `start` to `start + len(values)` of the flat tensor. A NaN stays.
        """
        split = min(max(self.index - start, 0), values.numel())
        if split:
            _shrink_(values[:split], _below(self.magnitude))
        if split < values.numel():
            _shrink_(values[split:], self.magnitude)
        return values


def _below(magnitude: float) -> float:
    below = torch.nextafter(torch.tensor(magnitude), torch.tensor(-1.0))
    return float(below)


def _shrink_(values: Tensor, bound: float) -> None:
    if bound >= 0:
        torch.ops.aten.hardshrink.out(values, bound, out=values)


class Order:
    """All cuts of one tensor, from one stable sort."""

    def __init__(self, magnitudes: Tensor):
        """Sort float32 magnitudes (flat)."""
        bits = magnitudes.view(torch.int32)
        self._order = bits.argsort(descending=True, stable=True).to(torch.int32)
        self._magnitudes = magnitudes

    def cut(self, count: int) -> Cut:
        """Return the cut that has `count` elements before it."""
        if count <= 0:
            return Cut(float("inf"), 0)
        last = int(self._order[count - 1])
        return Cut(float(self._magnitudes[last]), last + 1)
