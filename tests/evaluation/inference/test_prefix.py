"""Rows that share a prefix: none is lost or changed, and as many tokens as possible are saved."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from evomerge.evaluation.inference.rows import (
    MIN_ROWS,
    MIN_TOKENS,
    Continuation,
    Row,
    by_prefix,
    pack,
    separate,
)

EXAMPLES = [tuple(range(k, k + MIN_TOKENS + 3 * k)) for k in range(4)]


@st.composite
def continuations(draw: st.DrawFn) -> list[Continuation]:
    found = []
    for _ in range(draw(st.integers(0, 12))):
        start = draw(st.sampled_from(EXAMPLES))
        start = start[: draw(st.integers(1, len(start)))]
        context = [*start, *draw(st.lists(st.integers(0, 3), max_size=4))]
        for choice in draw(
            st.lists(st.lists(st.integers(4, 6), min_size=1, max_size=3), min_size=1)
        ):
            found.append(Continuation.of(context, choice, 500))
    return found


def whole(row: Row, prefix: tuple[int, ...]) -> tuple[object, ...]:
    """Return a row with its prefix added again."""
    return (prefix + row.start, *row.branches, *row.asked)


@given(continuations(), st.booleans())
def test_prefix_and_rest_make_up_the_row(asked: list[Continuation], packed: bool) -> None:
    rows = (pack if packed else separate)(asked, range(len(asked))) if asked else []
    found = []
    for prefix, behind in by_prefix(rows):
        assert not prefix or (len(prefix) >= MIN_TOKENS and len(behind) >= MIN_ROWS)
        for row in behind:
            predicting = zip(row.columns(), row.asked, strict=True)
            assert all(len(columns) == len(targets) for columns, (_, _, targets) in predicting)
            found.append(whole(row, prefix))
    assert sorted(found, key=repr) == sorted((whole(row, ()) for row in rows), key=repr)


def test_one_row_that_begins_otherwise_spoils_nothing() -> None:
    examples = list(range(400))
    contexts = [[*examples, 7, i] for i in range(10)] + [[*examples[:60], 999, 5, 5]]
    rows = separate([Continuation.of(context, [1], 500) for context in contexts], range(11))
    groups = [(len(prefix), len(behind)) for prefix, behind in by_prefix(rows)]
    assert groups == [(401, 10), (0, 1)]
