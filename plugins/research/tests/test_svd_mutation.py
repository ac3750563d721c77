"""Random multiples of singular components, and the merge that adds them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from evomerge_research.svd_mutation import SingularComponents

from evomerge.merging.kernels.noise import Noise
from evomerge.merging.kernels.torch_views import as_array, as_tensor
from evomerge.merging.methods import get_method
from evomerge.testing.methods import on_tensors

NOISE = Noise(3, "parent", "weight")


def matrices(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


def scaled_by(source: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    components = SingularComponents(as_array(source), as_array(base), keep=False)
    return as_tensor(components.scaled(NOISE, 0.1))


@pytest.mark.parametrize("shape", [(9, 5), (5, 9), (6, 6)])
def test_each_component_is_multiplied_by_its_own_random_number(shape):
    source, base = matrices(*shape)
    scaled = scaled_by(source, base)
    left, values, right = torch.linalg.svd((source - base).double(), full_matrices=False)
    factors = torch.diagonal(left.T @ scaled.double() @ right.T) / values
    rebuilt = left @ torch.diag(factors * values) @ right
    assert torch.allclose(scaled.double(), rebuilt, atol=1e-6)
    draws = (NOISE.draws(0, len(values)).double() + 2**15 + 0.5) / 2**16
    assert torch.allclose(factors, 0.1 * draws, atol=1e-6)


def test_the_bits_do_not_depend_on_threads_nor_on_what_is_kept():
    weights = [as_array(matrix.bfloat16()) for matrix in matrices(300, 200)]
    threads = torch.get_num_threads()
    results = []
    for count, keep in ((1, False), (2, True), (3, False)):
        torch.set_num_threads(count)
        components = SingularComponents(*weights, keep=keep)
        results += [components.scaled(NOISE, 0.1) for _ in range(2)]
        assert torch.get_num_threads() == count
    torch.set_num_threads(threads)
    assert all(np.array_equal(results[0], item) for item in results)


def test_a_weight_that_is_not_finite_gives_weights_that_are_not():
    source, base = matrices(4, 4)
    source[1, 2] = math.inf
    assert not scaled_by(source, base).isfinite().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mutation_is_added_to_the_mean_of_task_vectors_and_rounded_once(dtype):
    one, two = matrices(8, 6)
    expert, base = matrices(6, 8)[0].T.contiguous(), torch.full((8, 6), 0.5)
    merge = on_tensors(get_method("svd_mutation").prepare)(
        [one, two, expert], base, [NOISE] * 3, reuse=False
    )
    sources = [{"weight": weight, "mutation": 0.0} for weight in (3.0, 1.0)]
    sources.append({"weight": 0.0, "mutation": 0.1})
    out = torch.empty(8, 6, dtype=dtype)
    merge(sources, {"normalize": 1.0}, out)
    mutation = scaled_by(expert, base)
    expected = base + 0.75 * (one - base) + 0.25 * (two - base) + mutation
    assert torch.allclose(out.float(), expected, atol=1e-6 if dtype == torch.float32 else 0.02)
    exact = torch.empty(8, 6)
    merge(sources, {"normalize": 1.0}, exact)
    assert torch.equal(out, exact.to(dtype))


def test_norms_and_biases_have_no_mutation():
    one, base = matrices(6)
    out = torch.empty(6)
    method = get_method("svd_mutation")
    knobs = [{"weight": 1.0, "mutation": 5.0}]
    on_tensors(method.prepare)([one], base, [NOISE], reuse=True)(knobs, {"normalize": 0.0}, out)
    assert torch.allclose(out, one)
