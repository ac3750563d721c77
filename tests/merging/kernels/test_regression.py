"""Merging linear layers by least squares: the paper's equation in numpy, and what it minimises."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from evomerge.errors import CandidateError
from evomerge.merging.kernels.regression import least_squares
from evomerge.merging.kernels.torch_views import as_array
from evomerge.merging.methods import get_method

OUTPUTS, INPUTS = 5, 7


def layers(count: int, tokens: int = 40, seed: int = 0) -> tuple[list[torch.Tensor], ...]:
    """Weights of `count` sources, and the Gram matrices of inputs of very different sizes."""
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(OUTPUTS, INPUTS, generator=generator) for _ in range(count)]
    sizes = 10 ** torch.linspace(-1, 1, INPUTS)
    inputs = [torch.randn(tokens, INPUTS, generator=generator) * sizes for _ in range(count)]
    products = [x.T @ x / tokens for x in inputs]
    return weights, [(gram + gram.T) / 2 for gram in products]


def scaled(gram: torch.Tensor, alpha: float) -> np.ndarray:
    exact = gram.double().numpy()
    return alpha * exact + (1 - alpha) * np.diag(np.diag(exact))


def papers(weights: Sequence[torch.Tensor], grams: Sequence[torch.Tensor], alpha: float):
    """W^T = (sum_i G_i)^-1 (sum_i G_i W_i^T), as in Jin et al. 2023."""
    every = [scaled(gram, alpha) for gram in grams]
    right = sum(g @ w.double().numpy().T for g, w in zip(every, weights, strict=True))
    return (np.linalg.inv(sum(every)) @ right).T


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_it_is_the_equation_of_the_paper(alpha: float, count: int) -> None:
    weights, grams = layers(count)
    found = least_squares(weights, grams, alpha).numpy()
    np.testing.assert_allclose(found, papers(weights, grams, alpha), rtol=1e-5, atol=1e-6)


def test_the_sum_of_squares_is_at_its_minimum() -> None:
    weights, grams = layers(3)
    merged = least_squares(weights, grams, 1.0).double()
    merged.requires_grad_(True)
    parts = [
        torch.trace((merged - w.double()) @ g.double() @ (merged - w.double()).T)
        for w, g in zip(weights, grams, strict=True)
    ]
    sum(parts).backward()
    sizes = sum(grams).double().diagonal()
    assert (merged.grad.abs() / sizes).max() < 1e-5


def test_equal_sources_stay_what_they_are_bit_for_bit() -> None:
    (weight, *_), grams = layers(3)
    assert least_squares([weight] * 3, grams, 0.9).equal(weight)
    assert least_squares([weight], grams[:1], 0.9).equal(weight)


def test_with_equal_inputs_it_is_the_mean() -> None:
    weights, (gram, *_) = layers(3)
    mean = sum(w.double() for w in weights) / 3
    for same in (gram, torch.eye(INPUTS)):
        torch.testing.assert_close(least_squares(weights, [same] * 3, 0.9), mean.float())


def test_an_input_that_is_always_zero_keeps_the_mean() -> None:
    weights, grams = layers(2)
    for gram in grams:
        gram[2] = gram[:, 2] = 0
    merged = least_squares(weights, grams, 0.9)
    torch.testing.assert_close(merged[:, 2], (weights[0] + weights[1])[:, 2] / 2)
    rest = [i for i in range(INPUTS) if i != 2]
    part = papers([w[:, rest] for w in weights], [g[rest][:, rest] for g in grams], 0.9)
    np.testing.assert_allclose(merged[:, rest].numpy(), part, rtol=1e-5, atol=1e-6)
    nothing = [torch.zeros(INPUTS, INPUTS)] * 2
    torch.testing.assert_close(least_squares(weights, nothing, 0.9), (weights[0] + weights[1]) / 2)


def test_a_source_with_no_inputs_does_not_count() -> None:
    weights, grams = layers(2)
    merged = least_squares(weights, [grams[0], torch.zeros(INPUTS, INPUTS)], 0.9)
    torch.testing.assert_close(merged, weights[0], rtol=1e-5, atol=1e-5)


def test_fewer_tokens_than_inputs_need_an_alpha_below_one() -> None:
    weights, grams = layers(2, tokens=2)
    with pytest.raises(CandidateError, match=r"has no inverse.*; lower `alpha`"):
        least_squares(weights, grams, 1.0)
    found = least_squares(weights, grams, 0.99).numpy()
    np.testing.assert_allclose(found, papers(weights, grams, 0.99), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_may_be_stored_as_inputs_by_outputs(dtype: torch.dtype) -> None:
    method = get_method("regmean")
    assert method.prepare_grams is not None
    weights, grams = layers(2)
    weights = [weight.to(dtype) for weight in weights]
    turned = [weight.T.contiguous() for weight in weights]
    out, out_turned = torch.empty(OUTPUTS, INPUTS), torch.empty(INPUTS, OUTPUTS)
    for tensors, transposed, target in ((weights, False, out), (turned, True, out_turned)):
        merge = method.prepare_grams(
            [as_array(tensor) for tensor in tensors],
            [as_array(gram) for gram in grams],
            transposed=transposed,
        )
        merge([{}, {}], {"alpha": 0.9}, as_array(target))
    assert out.equal(least_squares(weights, grams, 0.9))
    assert out_turned.equal(out.T)
