"""Rows: every continuation is scored after exactly its own text; prefixes, masks, generation."""

from hypothesis import given
from hypothesis import strategies as st

from evomerge.evaluation.inference.rows import (
    MIN_ROWS,
    MIN_TOKENS,
    Continuation,
    by_prefix,
    pack,
    separate,
)

TOKENS = st.lists(st.integers(3, 6), min_size=1, max_size=8).map(tuple)


@st.composite
def documents(draw):
    context, choices = draw(TOKENS), draw(st.lists(TOKENS, min_size=1, max_size=5))
    return [Continuation.of(context, choice, longest=12) for choice in choices]


@given(documents())
def test_every_continuation_reads_its_own_tokens_and_no_others(continuations):
    indices = list(range(len(continuations)))
    packed, single = pack(continuations, indices), separate(continuations, indices)
    assert sum(map(len, packed)) <= sum(map(len, single))
    for rows in (packed, single):
        assert sorted(index for row in rows for index, _, _ in row.scored) == indices
        for row in rows:
            for (index, _, targets), columns in zip(row.scored, row.columns(), strict=True):
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


@given(TOKENS, TOKENS, st.integers(8, 12))
def test_long_texts_are_cut_from_the_left_as_hflm_cuts_them(context, continuation, longest):
    asked = Continuation.of(context, continuation, longest)
    whole = [*context, *continuation]
    assert list(asked.tokens) == whole[-(longest + 1) :][:-1]
    assert asked.targets == continuation


EXAMPLES = [tuple(range(k, k + MIN_TOKENS + 3 * k)) for k in range(4)]


@st.composite
def continuations(draw):
    found = []
    for _ in range(draw(st.integers(0, 12))):
        start = draw(st.sampled_from(EXAMPLES))
        start = start[: draw(st.integers(1, len(start)))]
        context = [*start, *draw(st.lists(st.integers(0, 3), max_size=4))]
        choices = st.lists(st.lists(st.integers(4, 6), min_size=1, max_size=3), min_size=1)
        found += [Continuation.of(context, choice, 500) for choice in draw(choices)]
    return found


def whole(row, prefix):
    """Return a row with its prefix added again."""
    return (prefix + row.start, *row.branches, *row.scored)


@given(continuations(), st.booleans())
def test_prefix_and_rest_make_up_the_row(asked, packed):
    rows = (pack if packed else separate)(asked, range(len(asked))) if asked else []
    found = []
    for prefix, behind in by_prefix(rows):
        assert not prefix or (len(prefix) >= MIN_TOKENS and len(behind) >= MIN_ROWS)
        for row in behind:
            predicting = zip(row.columns(), row.scored, strict=True)
            assert all(len(columns) == len(targets) for columns, (_, _, targets) in predicting)
            found.append(whole(row, prefix))
    assert sorted(found, key=repr) == sorted((whole(row, ()) for row in rows), key=repr)
