"""Cuts: exactly the requested number of elements; equal with and without sorting."""

from __future__ import annotations

import numpy as np
import pytest

from evomerge.merging.kernels.compiled import Array
from evomerge.merging.kernels.selection import MagnitudeCut, MagnitudeOrder, find_cut

SIZE = 300_001


def values(kind: str) -> Array:
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
    if kind == "one number":
        return np.full(SIZE, 0.25, dtype=np.float32)
    if kind == "sorted, so that neighbours are alike":
        return np.sort(numbers)
    return numbers


def before(cut: MagnitudeCut, numbers: Array) -> Array:
    """Whether each element is before a cut."""
    tied = (numbers == np.float32(cut.magnitude)) & (np.arange(len(numbers)) < cut.index)
    return ~(numbers <= np.float32(cut.magnitude)) | tied


@pytest.mark.parametrize(
    "kind",
    [
        *("numbers", "ties", "heavy ties among numbers", "mostly zeros", "one number"),
        *("not a number here and there", "sorted, so that neighbours are alike"),
    ],
)
def test_a_cut_found_without_a_sort_is_the_sorted_one(kind: str) -> None:
    numbers = values(kind)
    order = MagnitudeOrder(lambda part: numbers[part], SIZE)
    for count in (1, 7, SIZE // 20, SIZE // 5, SIZE // 2, SIZE * 9 // 10, SIZE - 1, SIZE):
        cut = find_cut(lambda part: numbers[part], SIZE, count)
        assert cut == order.cut(count)
        if not np.isinf(cut.magnitude):
            assert before(cut, numbers).sum() == count


@pytest.mark.parametrize("count", [1, 5000, 70_000, 150_000, 299_000])
def test_a_cut_keeps_and_drops_complements(count: int) -> None:
    numbers = values("ties")
    cut = MagnitudeOrder(lambda part: numbers[part], SIZE).cut(count)
    kept, dropped = numbers.copy(), numbers.copy()
    for start in range(0, SIZE, 50_000):
        part = slice(start, min(start + 50_000, SIZE))
        cut.keep_before(kept[part], start)
        cut.drop_before(dropped[part], start)
    assert np.array_equal(kept, np.where(before(cut, numbers), numbers, 0))
    assert np.array_equal(dropped, np.where(before(cut, numbers), 0, numbers))
