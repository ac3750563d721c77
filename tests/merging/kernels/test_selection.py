"""Cuts: exactly the requested number of elements; equal with and without sorting."""

from __future__ import annotations

import numpy as np
import pytest

from evomerge.merging.kernels.selection import MagnitudeOrder, find_cut

SIZE = 300_001
KINDS = (
    *("numbers", "ties", "heavy ties among numbers", "mostly zeros", "one number"),
    "not a number here and there",
)


def values(kind):
    draw = np.random.default_rng(3)
    numbers = np.abs(draw.standard_normal(SIZE)).astype(np.float32)
    if kind == "ties":
        return np.round(numbers * 8) / np.float32(8)
    if kind == "heavy ties among numbers":
        return np.where(draw.random(SIZE) < 0.6, np.float32(0.5), numbers)
    if kind == "mostly zeros":
        return np.where(draw.random(SIZE) < 0.9, np.float32(0), numbers)
    if kind == "not a number here and there":
        return np.where(draw.random(SIZE) < 0.2, np.float32(np.nan), numbers)
    return np.full(SIZE, 0.25, dtype=np.float32) if kind == "one number" else numbers


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_found_without_a_sort_is_the_sorted_one(kind):
    numbers = values(kind)
    order = MagnitudeOrder(lambda part: numbers[part], SIZE)
    for count in (1, 7, SIZE // 20, SIZE // 5, SIZE // 2, SIZE * 9 // 10, SIZE - 1, SIZE):
        cut = find_cut(lambda part: numbers[part], SIZE, count)
        assert cut == order.cut(count)
        if not np.isinf(cut.magnitude):
            above, tied = (
                is_of(numbers, np.float32(cut.magnitude)) for is_of in (np.greater, np.equal)
            )
            assert (above | np.isnan(numbers)).sum() + tied[: cut.index].sum() == count
