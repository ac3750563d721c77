"""Packing, batching and cutting, whatever the texts."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from evomerge.evaluate.inference.batches import Batching
from evomerge.evaluate.inference.likelihood import (
    Batch,
    Continuation,
    attention_mask,
    pack,
    separate,
)

TOKENS = st.lists(st.integers(3, 6), min_size=1, max_size=8).map(tuple)


@st.composite
def documents(draw: st.DrawFn) -> list[Continuation]:
    context = draw(TOKENS)
    return [
        Continuation.of(context, continuation, longest=12)
        for continuation in draw(st.lists(TOKENS, min_size=1, max_size=5))
    ]


@given(documents())
def test_every_question_reads_its_own_tokens_and_no_others(
    continuations: list[Continuation],
) -> None:
    numbers = list(range(len(continuations)))
    for rows in (pack(continuations, numbers), separate(continuations, numbers)):
        answered = [number for row in rows for number in row.numbers]
        assert sorted(answered) == numbers
        for row in rows:
            for number, places, targets in zip(row.numbers, row.places, row.targets, strict=True):
                continuation = continuations[number]
                assert targets == continuation.targets
                last = places[-1]
                seen = [
                    column
                    for column in range(len(row))
                    if row.branch[column] in (0, row.branch[last])
                    and row.positions[column] <= row.positions[last]
                ]
                assert tuple(row.tokens[column] for column in seen) == continuation.tokens
                assert [row.positions[column] for column in seen] == list(range(len(seen)))
                assert places == seen[len(seen) - len(targets) :]


@given(documents())
def test_packing_never_reads_more_than_one_row_for_each_question(
    continuations: list[Continuation],
) -> None:
    numbers = list(range(len(continuations)))
    packed, single = pack(continuations, numbers), separate(continuations, numbers)
    assert sum(map(len, packed)) <= sum(map(len, single))


@given(TOKENS, TOKENS, st.integers(8, 12))
def test_long_texts_are_cut_from_the_left_as_hflm_cuts_them(
    context: tuple[int, ...], continuation: tuple[int, ...], longest: int
) -> None:
    continuation = Continuation.of(context, continuation, longest)
    whole = [*context, *continuation]
    assert list(continuation.tokens) == whole[-(longest + 1) :][:-1]
    assert continuation.targets == continuation


def test_a_mask_shows_prefix_and_own_branch_only_within_the_window() -> None:
    class Config:
        sliding_window = 3
        layer_types = ("full_attention", "sliding_attention")

        def get_text_config(self) -> Config:
            return self

    class Model:
        config = Config()
        dtype = torch.float32

    rows = pack([Continuation((1, 2, 3, 4), (9,)), Continuation((1, 2, 5, 6), (9,))], [0, 1])
    masks = attention_mask(Model(), Batch.of(rows, 0, torch.device("cpu")))
    full, windowed = (masks[kind][0, 0] == 0 for kind in Config.layer_types)
    assert full[5].tolist() == [True, True, False, False, True, True]
    assert windowed[5].tolist() == [False, True, False, False, True, True]
    assert full[3].tolist() == [True, True, True, True, False, False]


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
