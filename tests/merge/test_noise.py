"""The random field: its law, and that nothing but its key matters."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.merge.noise import LOWEST, STEPS, Noise, chance


def test_field_never_changes() -> None:
    lanes = Noise(0, "zoo:maths", "model.layers.0.mlp.down_proj.weight").lanes(0, 6)
    assert lanes.tolist() == [-30088, 2246, -6227, 17802, -25197, 2010]


@settings(deadline=None)
@given(st.integers(0, 300), st.integers(0, 300))
def test_a_field_drawn_in_pieces_is_the_field(start: int, count: int) -> None:
    noise = Noise(7, "parent", "tensor")
    whole = noise.lanes(0, 700)
    assert torch.equal(noise.lanes(start, start + count), whole[start : start + count])


@settings(deadline=None)
@given(
    st.tuples(st.integers(0, 2**63), st.text(), st.text()),
    st.tuples(st.integers(0, 2**63), st.text(), st.text()),
)
def test_every_key_has_its_own_field(one: tuple[int, str, str], two: tuple[int, str, str]) -> None:
    same = torch.equal(Noise(*one).lanes(0, 64), Noise(*two).lanes(0, 64))
    assert same == (one == two)


def test_a_global_seed_is_neither_read_nor_changed() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1]
    first = Noise(0, "a", "b").lanes(0, 100)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    torch.manual_seed(2)
    assert torch.equal(Noise(0, "a", "b").lanes(0, 100), first)


def test_lanes_are_uniform_and_independent() -> None:
    count = 1 << 20
    lanes = Noise(3, "a", "b").lanes(0, count).float()
    assert lanes.min() == LOWEST and lanes.max() == LOWEST + STEPS - 1
    unit = (lanes - LOWEST) / STEPS
    for probability in (0.1, 0.5, 0.9):
        share = float((unit < probability).float().mean())
        assert abs(share - probability) < 4 * (0.25 / count) ** 0.5
    centred = unit - unit.mean()
    other = (Noise(3, "a", "c").lanes(0, count).float() - LOWEST) / STEPS
    for shifted in (centred.roll(1), centred.roll(4), other - other.mean()):
        correlation = float((centred * shifted).mean() / centred.var())
        assert abs(correlation) < 4 / count**0.5


@settings(deadline=None)
@given(st.floats(0, 1))
def test_chance_is_the_nearest_step_and_certain_only_when_asked(probability: float) -> None:
    result = chance(probability)
    assert (result * STEPS).is_integer()
    assert abs(result - probability) <= 1 / STEPS
    assert (result in (0, 1)) == (probability in (0, 1))
