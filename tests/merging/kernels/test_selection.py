"""Cuts: exactly the requested number of elements; equal with and without sorting."""

from __future__ import annotations

import numpy as np
import pytest

from evomerge.merging.kernels.compiled import Array
from evomerge.merging.kernels.selection import (
    _RUN,
    _SAMPLE,
    MagnitudeCut,
    MagnitudeOrder,
    find_cut,
)

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
    if kind == "what the sample shows is largest":
        step = SIZE // (_SAMPLE // _RUN)
        numbers[np.arange(SIZE) % step < _RUN] += 100
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
        "what the sample shows is largest",
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
