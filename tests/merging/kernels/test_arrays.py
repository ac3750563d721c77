"""Arrays of stored weights: views of tensors, the check that all are finite, and random numbers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.merging.kernels.noise import LOWEST, STEPS, Noise, philox
from evomerge.merging.kernels.passes import count_bad
from evomerge.merging.kernels.torch_views import TORCH_DTYPES, as_array, as_tensor
from evomerge.merging.methods.method import knob, method
from evomerge.testing.methods import on_tensors

WEIGHTS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


@pytest.mark.parametrize("name", TORCH_DTYPES)
def test_arrays_and_tensors_are_views_of_the_same_bits(name):
    bits = torch.arange(96, dtype=torch.uint8).view(4, 24)
    tensor = (bits > 50) if name == "BOOL" else bits.view(TORCH_DTYPES[name])
    array = as_array(tensor)
    again = as_tensor(array, name)
    assert again.dtype == tensor.dtype
    assert array.ctypes.data == again.data_ptr() == tensor.data_ptr()
    if tensor.dtype in WEIGHTS:
        assert as_tensor(array).dtype == tensor.dtype


@pytest.mark.parametrize("dtype", WEIGHTS)
def test_a_method_on_tensors_gets_tensors_and_one_thread(dtype, threads):
    seen = []

    def note(operands):
        seen.extend(
            (torch.get_num_threads(), *(it.dtype for it in (*operands.tensors, operands.base)))
        )

    @method("", parents=(1, None), preparation=note, torch=True)
    def summed(operands, out, *, scale=knob(1.0, 0, 1)):
        seen.append(torch.get_num_threads())
        out.copy_(sum(operands.tensors) + operands.base * scale)

    one, two, base = torch.randn(3, 2, 3).to(dtype)
    out = torch.empty(2, 3, dtype=dtype)
    threads(2)
    on_tensors(summed.prepare)([one, two], base)([{}, {}], {"scale": 0.01}, out)
    assert torch.get_num_threads() == 2 and seen == [1, dtype, dtype, dtype, 1]
    assert torch.equal(out, one + two + base * 0.01)


DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def is_finite(tensor):
    return not count_bad(as_array(tensor))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [float("nan"), -float("nan"), float("inf"), -float("inf")])
def test_bad_weights_are_found_wherever_they_are(dtype, value):
    for place in (0, 700, 999):
        tensor = torch.randn(1000).to(dtype)
        if dtype != torch.float64:  # sources are read as float32
            tensor[1:3] = torch.tensor([torch.finfo(dtype).max, -torch.finfo(dtype).tiny])
        assert is_finite(tensor)
        tensor[place] = value
        assert not is_finite(tensor)
        assert count_bad(as_array(tensor)) == 1


@given(st.sampled_from(DTYPES[:2]), st.lists(st.integers(0, 65535), min_size=1, max_size=4))
def test_any_bits_are_judged_as_torch_judges_them(dtype, bits):
    tensor = torch.tensor(bits, dtype=torch.uint16).view(dtype)
    assert is_finite(tensor) == bool(torch.isfinite(tensor).all())


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
