"""Splits and rotating subsets: disjoint, in proportion, always the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.errors import ConfigError
from evomerge.evaluate.subsets import in_order, rotating, split_documents


@given(st.integers(3, 300), st.data())
def test_splits_are_disjoint_as_large_as_asked_and_always_the_same(
    count: int, data: st.DataObject
) -> None:
    search = data.draw(st.integers(1, count - 2))
    validation = data.draw(st.integers(1, count - search - 1))
    sizes = {"search": search, "validation": validation, "test": "all"}
    parts = split_documents(count, sizes, 7, task="t")
    assert [len(parts[s]) for s in ("search", "validation")] == [search, validation]
    assert sorted(i for ids in parts.values() for i in ids) == list(range(count))
    assert all(ids == sorted(ids) for ids in parts.values())
    assert parts == split_documents(count, sizes, 7, task="t")


def test_seed_and_task_decide_the_split() -> None:
    sizes = {"search": 10, "validation": 10, "test": 10}
    one = split_documents(100, sizes, 0, task="t")
    assert one != split_documents(100, sizes, 1, task="t")
    assert one != split_documents(100, sizes, 0, task="u")


def test_strata_are_held_in_proportion() -> None:
    strata = ["easy"] * 60 + ["hard"] * 30 + ["odd"] * 10
    sizes = {"search": 50, "validation": 20, "test": "all"}
    for ids in split_documents(100, sizes, 0, strata, task="t").values():
        shares = [sum(strata[i] == label for i in ids) / len(ids) for label in ("easy", "hard")]
        assert shares == pytest.approx([0.6, 0.3], abs=1.5 / len(ids))


@pytest.mark.parametrize(
    "sizes",
    [
        {"search": 60, "validation": 30, "test": 20},
        {"search": 60, "validation": 40, "test": "all"},
        {"search": "all", "validation": 10, "test": "all"},
    ],
)
def test_splits_that_would_overlap_or_be_empty_are_refused(sizes: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"'my_task'"):
        split_documents(100, sizes, 0, task="my_task")


@given(st.integers(1, 100), st.integers(1, 100), st.integers(0, 50))
def test_rotating_subsets_use_every_document_before_any_again(
    count: int, size: int, first: int
) -> None:
    ids = [3 * i for i in range(count)]
    size = min(size, count)
    turns = count // size
    start = first // turns * turns
    seen = [i for turn in range(turns) for i in rotating(ids, size, start + turn, "k")]
    assert len(seen) == len(set(seen)) == turns * size
    assert set(seen) <= set(ids)


@given(st.integers(0, 60), st.text(max_size=3))
def test_an_order_is_a_permutation(count: int, key: str) -> None:
    assert sorted(in_order(count, key)) == list(range(count))
