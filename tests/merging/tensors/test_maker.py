"""The check that every merged tensor goes through."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evomerge.merging.kernels.compiled import are_finite
from evomerge.merging.kernels.torch_views import as_array
from evomerge.merging.tensors.maker import count_bad

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def is_finite(tensor):
    return are_finite(as_array(tensor).reshape(-1))


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
