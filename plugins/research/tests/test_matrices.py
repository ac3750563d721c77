"""Merges of matrices as wholes: the papers' equations in numpy, and what they leave open."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
import torch

from evomerge.config.schema import parse
from evomerge.merging.methods import get_method
from evomerge.setup.descents import slope_note
from evomerge.testing.methods import on_tensors

NAMES = ("iso_c", "wudi_ridge")
DEFAULT = {"lambda": 1.0, "ridge": 0.3}
Matrix = np.ndarray


def models(shape: Sequence[int], count: int, seed: int = 1) -> list[torch.Tensor]:
    """A base and `count` fine-tuned models of it."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(tuple(shape), generator=generator)
    return [base, *(base + torch.randn(tuple(shape), generator=generator) for _ in range(count))]


def merged(
    name: str, tensors: Sequence[torch.Tensor], *, tokens: bool = False, **knobs: float
) -> torch.Tensor:
    base, *sources = tensors
    method = get_method(name)
    out = torch.empty(base.shape, dtype=torch.float32)
    on_tensors(method.prepare)(sources, base, (), tokens=tokens)(
        [{}] * len(sources), DEFAULT | knobs, out
    )
    return out


def iso_c(changes: Sequence[Matrix]) -> Matrix:
    u, s, vh = np.linalg.svd(sum(changes), full_matrices=False)
    return u @ np.diag(np.full_like(s, s.mean())) @ vh


def wudi_ridge(changes: Sequence[Matrix], ridge: float = 0.3) -> Matrix:
    grams = [change.T @ change / np.sum(change**2) for change in changes]
    pull = ridge * np.trace(sum(grams)) / len(grams[0])
    wanted = sum(change @ gram for change, gram in zip(changes, grams, strict=True))
    wanted = wanted + pull * sum(changes)
    return wanted @ np.linalg.inv(sum(grams) + pull * np.eye(len(grams[0])))


EQUATIONS: Mapping[str, Callable[[Sequence[Matrix]], Matrix]] = {
    "iso_c": iso_c,
    "wudi_ridge": wudi_ridge,
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(8, 8), (12, 5), (5, 13), (40, 33)])
@pytest.mark.parametrize("count", [2, 3])
def test_a_matrix_is_merged_as_in_the_paper(name, shape, count):
    tensors = models(shape, count)
    base, *sources = (tensor.double().numpy() for tensor in tensors)
    expected = base + 0.7 * EQUATIONS[name]([source - base for source in sources])
    np.testing.assert_allclose(merged(name, tensors, **{"lambda": 0.7}), expected, atol=3e-6)


@pytest.mark.parametrize("name", NAMES)
def test_each_matrix_of_a_stack_is_merged_by_itself(name):
    stacks = models((3, 6, 4), 2)
    expected = [merged(name, [stack[i] for stack in stacks]) for i in range(3)]
    assert torch.equal(merged(name, stacks), torch.stack(expected))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(7,), (1, 9), (9, 1), (5, 1, 4), (2, 3, 4, 5), ()])
def test_what_is_no_matrix_gets_the_mean_of_the_task_vectors(name, shape):
    base, *sources = models(shape, 3)
    expected = base + 0.5 * sum(source - base for source in sources) / 3
    torch.testing.assert_close(merged(name, [base, *sources], **{"lambda": 0.5}), expected)


@pytest.mark.parametrize("name", NAMES)
def test_embeddings_and_head_get_the_mean_of_the_task_vectors(name):
    base, *sources = models((30, 6), 2)
    torch.testing.assert_close(merged(name, [base, *sources], tokens=True), sum(sources) / 2)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_only_the_matrix_with_a_weight_that_is_not_finite_is_lost(name, value):
    base, *sources = models((2, 4, 4), 2)
    sources[1][0, 1, 2] = value
    out = merged(name, [base, *sources])
    assert out[0].isnan().all() and out[1].isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_a_source_without_a_change_in_a_matrix_counts_as_a_task_of_zeros(name):
    base, source = models((6, 6), 1)
    change = (source - base).double().numpy()
    u, s, vh = np.linalg.svd(change)
    expected = {"iso_c": s.mean() * u @ vh, "wudi_ridge": change}[name]
    out = merged(name, [base, source, base])
    np.testing.assert_allclose(out.double() - base.double(), expected, atol=3e-6)


def low_rank(count: int) -> list[torch.Tensor]:
    """A base of zeros and task vectors of rank 2, exact in float32."""
    generator = torch.Generator().manual_seed(4)

    def whole(*shape: int) -> torch.Tensor:
        return torch.randint(-3, 4, shape, generator=generator).float()

    return [torch.zeros(12, 10), *(whole(12, 2) @ whole(2, 10) for _ in range(count))]


def test_iso_c_does_not_widen_the_rank():
    base, *sources = low_rank(2)
    values = np.linalg.svd(sum(sources).double(), compute_uv=False)
    found = np.linalg.svd(merged("iso_c", [base, *sources]).double(), compute_uv=False)
    np.testing.assert_allclose(found, [values.mean()] * 4 + [0] * 6, atol=1e-5)


def test_a_small_ridge_minimises_the_interference_and_a_large_one_gives_the_sum():
    base, *sources = low_rank(3)

    def interference(x: torch.Tensor) -> float:
        return sum(float(((x - d) @ d.T).square().sum() / d.square().sum()) for d in sources)

    total = sum(sources)
    least = interference(merged("wudi_ridge", [base, *sources], ridge=1e-6))
    middle = interference(merged("wudi_ridge", [base, *sources], ridge=1))
    assert least < middle < interference(total)
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        step = 0.01 * torch.randn(total.shape, generator=generator)
        assert least < interference(merged("wudi_ridge", [base, *sources], ridge=1e-6) + step)
    torch.testing.assert_close(
        merged("wudi_ridge", [base, *sources], ridge=1e6), total, atol=1e-4, rtol=1e-5
    )


def test_another_ridge_is_computed_anew():
    base, *sources = models((6, 6), 2)
    merge = on_tensors(get_method("wudi_ridge").prepare)(sources, base, (), reuse=True)
    results = []
    for ridge in (0.1, 10.0, 0.1):
        out = torch.empty(base.shape)
        merge([{}] * 2, {"lambda": 1.0, "ridge": ridge}, out)
        results.append(out)
    assert torch.equal(results[0], results[2]) and not torch.equal(results[0], results[1])
    assert torch.equal(results[1], merged("wudi_ridge", [base, *sources], ridge=10.0))


def test_validate_says_that_slopes_by_the_ridge_are_costly():
    data = {
        "parents": ["zoo:language", "zoo:maths"],
        "base": "zoo:base",
        "space": {"method": "wudi_ridge", "knobs": {"lambda": (0.5, 1.5), "ridge": (0.5, 2.0)}},
        "optimizer": {"name": "gradient"},
        "objectives": [{"task": "zoo_l2", "metric": "exact_match"}],
    }
    note = str(slope_note(parse(data, "search.yaml"), []))
    assert note.startswith("4 more merges by wudi_ridge in every step, each of them costly; fix")
