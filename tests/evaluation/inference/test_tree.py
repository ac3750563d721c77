"""The trie of paths: every distinct prefix is run once, and states are kept only while needed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from evomerge.evaluation.inference.tree import steps

block_keys_of_all = st.lists(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=6).map(tuple), max_size=12
)


@given(block_keys_of_all)
def test_every_distinct_prefix_is_computed_once(block_keys_of_all: list[tuple[str, ...]]) -> None:
    turns = steps(block_keys_of_all)
    assert sorted(turn.number for turn in turns) == list(range(len(block_keys_of_all)))
    nodes = {
        block_keys[: depth + 1]
        for block_keys in block_keys_of_all
        for depth in range(len(block_keys))
    }
    assert sum(len(block_keys_of_all[turn.number]) - turn.start for turn in turns) == len(nodes)


@given(block_keys_of_all)
def test_a_state_is_held_from_its_making_to_its_last_use(
    block_keys_of_all: list[tuple[str, ...]],
) -> None:
    held: dict[int, tuple[str, ...]] = {}
    for turn in steps(block_keys_of_all):
        path = block_keys_of_all[turn.number]
        if turn.start:
            assert held[turn.start] == path[: turn.start]
        held |= {depth: path[:depth] for depth in turn.keep}
        held = {depth: state for depth, state in held.items() if depth in turn.needed}
        assert set(held) == turn.needed  # no state is missing, and none is kept too long
    assert not held
