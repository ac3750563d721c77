"""Methods on torch tensors, as other packages have them, among methods on arrays."""

from __future__ import annotations

import pytest
import torch

from evomerge.merging.kernels.noise import Noise
from evomerge.merging.kernels.torch_views import TORCH_DTYPES, as_array, as_tensor
from evomerge.merging.methods.method import method
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
def test_a_method_on_tensors_gets_tensors_and_one_thread(dtype):
    @method("", parents=(1, None), torch=True)
    def summed(given):
        def merge(sources, knobs, out):
            assert torch.get_num_threads() == 1
            out.copy_(sum(given.tensors) + given.base + draws * knobs["scale"])

        assert torch.get_num_threads() == 1
        assert {item.dtype for item in (*given.tensors, given.base)} == {dtype}
        draws = torch.from_numpy(given.noise[0].array(0, 6)).view(2, 3)
        return merge

    one, two, base = torch.randn(3, 2, 3).to(dtype)
    out, before = torch.empty(2, 3, dtype=dtype), torch.get_num_threads()
    torch.set_num_threads(2)
    noise = [Noise(0, "parent", "tensor")]
    merge = on_tensors(summed.prepare)([one, two], base, noise, reuse=True)
    merge([{}, {}], {"scale": 0.01}, out)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)
    expected = one + two + base + torch.from_numpy(noise[0].array(0, 6)).view(2, 3) * 0.01
    assert torch.equal(out, expected.to(dtype))
