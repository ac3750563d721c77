"""Batches: every row once, within the limits, with the lowest cost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from evomerge.evaluation.inference.batches import Batching


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=40),
    st.integers(1, 200),
    st.one_of(st.none(), st.integers(1, 6)),
)
def test_batches_hold_every_row_once_and_keep_their_bounds(
    lengths: list[int], tokens: int, rows: int | None
) -> None:
    groups = Batching(tokens, rows, overhead=10).cut(lengths)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        area = len(group) * max(lengths[index] for index in group)
        assert len(group) == 1 or area <= tokens
        assert rows is None or len(group) <= rows


@given(st.lists(st.integers(1, 50), min_size=1, max_size=9))
def test_no_cut_into_neighbours_of_like_length_is_cheaper(lengths: list[int]) -> None:
    batching = Batching(10**6, None, overhead=20)
    ordered = sorted(lengths, reverse=True)

    def cheapest(start: int) -> int:
        if start == len(ordered):
            return 0
        return min(
            ordered[start] * (end - start) + 20 + cheapest(end)
            for end in range(start + 1, len(ordered) + 1)
        )

    cost = sum(max(lengths[i] for i in g) * len(g) + 20 for g in batching.cut(lengths))
    assert cost == cheapest(0)
