"""Random numbers: uniform, and determined by seed, parent and tensor name only."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.merging.kernels.noise import LOWEST, STEPS, Noise, philox, rounded_probability


def test_draws_never_change():
    draws = Noise(0, "zoo:maths", "model.layers.0.mlp.down_proj.weight").array(0, 6)
    assert draws.tolist() == [-9804, 15256, -12213, -410, 4391, -17061]


@given(*[st.integers(0, 2**32 - 1)] * 2, st.integers(0, 2**62), st.integers(1, 40))
def test_philox_is_the_paper_s_rounds(one, two, first, counters):
    words = np.empty((2, 4, counters), dtype=np.uint32)
    philox(np.array([one, two], dtype=np.uint64), first, words)
    for at in range(2 * counters):
        counter = first + at
        left, right = (counter & 0xFFFFFFFF, counter >> 32), (0, 0)
        keys = one, two
        for _ in range(10):
            a, c = left[0] * 0xD2511F53, right[0] * 0xCD9E8D57
            left, right = (
                ((c >> 32) ^ left[1] ^ keys[0], c & 0xFFFFFFFF),
                ((a >> 32) ^ right[1] ^ keys[1], a & 0xFFFFFFFF),
            )
            keys = (keys[0] + 0x9E3779B9) % 2**32, (keys[1] + 0xBB67AE85) % 2**32
        block, place = divmod(at, counters)
        assert words[block, :, place].tolist() == [*left, *right]


@settings(deadline=None)
@given(st.integers(0, 6000), st.integers(0, 6000))
def test_numbers_drawn_in_pieces_are_those_drawn_at_once(start, count):
    noise = Noise(7, "parent", "tensor")
    whole = noise.array(0, 12_000)
    assert np.array_equal(noise.array(start, start + count), whole[start : start + count])


def test_draws_are_uniform_and_independent():
    count = 1 << 20
    draws, other = (Noise(3, "a", name).array(0, count).astype(float) for name in "bc")
    assert draws.min() == LOWEST and draws.max() == LOWEST + STEPS - 1
    for probability in (0.1, 0.5, 0.9):
        share = ((draws - LOWEST) / STEPS < probability).mean()
        assert abs(share - probability) < 4 * (0.25 / count) ** 0.5
    for shifted in (np.roll(draws, 1), np.roll(draws, 4), other):
        assert abs(np.corrcoef(draws, shifted)[0, 1]) < 4 / count**0.5


@settings(deadline=None)
@given(st.floats(0, 1))
def test_a_rounded_probability_is_the_nearest_step_and_certain_only_when_asked(probability):
    result = rounded_probability(probability)
    assert (result * STEPS).is_integer()
    assert abs(result - probability) <= 1 / STEPS
    assert (result in (0, 1)) == (probability in (0, 1))
