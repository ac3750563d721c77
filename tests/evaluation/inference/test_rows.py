"""Rows: every continuation is scored after exactly its own text, whatever the texts are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from evomerge.evaluation.inference.rows import Continuation, pack, separate

TOKENS = st.lists(st.integers(3, 6), min_size=1, max_size=8).map(tuple)


@st.composite
def documents(draw: st.DrawFn) -> list[Continuation]:
    context = draw(TOKENS)
    return [
        Continuation.of(context, continuation, longest=12)
        for continuation in draw(st.lists(TOKENS, min_size=1, max_size=5))
    ]


@given(documents())
def test_every_continuation_reads_its_own_tokens_and_no_others(
    continuations: list[Continuation],
) -> None:
    indices = list(range(len(continuations)))
    for rows in (pack(continuations, indices), separate(continuations, indices)):
        assert sorted(index for row in rows for index, _, _ in row.asked) == indices
        for row in rows:
            for (index, _, targets), columns in zip(row.asked, row.columns(), strict=True):
                continuation = continuations[index]
                assert targets == continuation.targets
                last = columns[-1]
                seen = [
                    column
                    for column in range(len(row))
                    if row.branch[column] in (0, row.branch[last])
                    and row.positions[column] <= row.positions[last]
                ]
                assert tuple(row.tokens[column] for column in seen) == continuation.tokens
                assert [row.positions[column] for column in seen] == list(range(len(seen)))
                assert columns == seen[len(seen) - len(targets) :]


@given(documents())
def test_packing_never_reads_more_than_one_row_for_each_continuation(
    continuations: list[Continuation],
) -> None:
    indices = list(range(len(continuations)))
    packed, single = pack(continuations, indices), separate(continuations, indices)
    assert sum(map(len, packed)) <= sum(map(len, single))


@given(TOKENS, TOKENS, st.integers(8, 12))
def test_long_texts_are_cut_from_the_left_as_hflm_cuts_them(
    context: tuple[int, ...], continuation: tuple[int, ...], longest: int
) -> None:
    asked = Continuation.of(context, continuation, longest)
    whole = [*context, *continuation]
    assert list(asked.tokens) == whole[-(longest + 1) :][:-1]
    assert asked.targets == continuation
