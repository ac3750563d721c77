"""Cuts: exactly the requested number of elements; equal with and without sorting."""

import numpy as np
import pytest

from evomerge.merging.kernels.selection import _RUN, _SAMPLE, falling, find_cut

SIZE = 300_001
DRAW = np.random.default_rng(3)
NUMBERS = np.abs(DRAW.standard_normal(SIZE)).astype(np.float32)
SAMPLED = np.arange(SIZE) % (SIZE // (_SAMPLE // _RUN)) < _RUN
KINDS = {
    "numbers": NUMBERS,
    "ties": np.round(NUMBERS * 8) / np.float32(8),
    "heavy ties among numbers": np.where(DRAW.random(SIZE) < 0.6, np.float32(0.5), NUMBERS),
    "mostly zeros": np.where(DRAW.random(SIZE) < 0.9, np.float32(0), NUMBERS),
    "not a number here and there": np.where(DRAW.random(SIZE) < 0.2, np.float32("nan"), NUMBERS),
    "one number": np.full(SIZE, 0.25, dtype=np.float32),
    "what the sample shows is largest": NUMBERS + np.float32(100) * SAMPLED,
    "sorted, so that neighbours are alike": np.sort(NUMBERS),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_found_without_a_sort_is_the_sorted_one(kind):
    numbers = KINDS[kind]
    order = falling(lambda part: numbers[part], SIZE)
    for count in (1, 7, SIZE // 20, SIZE // 5, SIZE // 2, SIZE * 9 // 10, SIZE - 1, SIZE):
        cut = find_cut(lambda part: numbers[part], SIZE, count)
        assert cut.index == order[count - 1] + 1
        last = numbers[order[count - 1]]
        assert cut.magnitude == (np.inf if np.isnan(last) else last)
        if not np.isinf(cut.magnitude):
            tied = (numbers == np.float32(cut.magnitude)) & (np.arange(SIZE) < cut.index)
            assert (~(numbers <= np.float32(cut.magnitude)) | tied).sum() == count
