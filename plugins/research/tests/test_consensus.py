"""Consensus merging against the equations of its paper (arXiv 2405.07813) and against its laws."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from draws import draws
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from evomerge.errors import RecipeError
from evomerge.merging.methods import get_method
from evomerge.merging.methods.method import check_knobs
from evomerge.testing.methods import on_tensors

LARGE = 70_001
"""Elements of a tensor with more than one span, and an incomplete block."""

WEIGHTS = st.sampled_from([-0.5, 0.0, 0.3, 1.0]) | st.floats(-1, 1).map(lambda x: round(x, 3))
THRESHOLDS = st.sampled_from([0.0, 0.2, 0.4, 1.0, 3.0])


def merged(
    method: str,
    base: torch.Tensor,
    sources: Sequence[torch.Tensor],
    weights: Sequence[float],
    thresholds: Sequence[float] = (),
    **knobs: float,
) -> torch.Tensor:
    own = [{"weight": weight} for weight in weights]
    for item, threshold in zip(own, thresholds, strict=False):
        item["threshold"] = threshold
    given = check_knobs(get_method(method), own, knobs, has_base=True)
    out = torch.empty(base.shape)
    on_tensors(get_method(method).prepare)(sources, base, (), reuse=False)(*given, out)
    return out


def paper(
    base: torch.Tensor,
    sources: Sequence[torch.Tensor],
    weights: Sequence[float],
    thresholds: Sequence[float],
    agree: int,
    scale: float,
) -> np.ndarray:
    """theta_0 + alpha m tau_MTL, with the m of at least k masks |tau_t| > l_t |tau_MTL - tau_t|."""
    pretrained = base.double().numpy()
    factors = np.array(weights, dtype=np.float32).astype(np.float64)
    taus = [w * (x.double().numpy() - pretrained) for w, x in zip(factors, sources, strict=True)]
    multi = sum(taus)
    masks = [abs(tau) > low * abs(multi - tau) for tau, low in zip(taus, thresholds, strict=True)]
    return pretrained + scale * np.where(sum(m.astype(int) for m in masks) >= agree, multi, 0)


@st.composite
def merges(draw: st.DrawFn) -> tuple[torch.Tensor, list[torch.Tensor], list[float], list[float]]:
    """A base and two to four sources near it (often with equal changes), weights and thresholds."""
    count, size = draw(st.integers(2, 4)), draw(st.sampled_from([0, 1, 7, 2049, LARGE]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 50)))
    base = torch.randn(size, generator=generator).bfloat16()
    sources = [
        (base + 0.02 * torch.randn(size, generator=generator)).bfloat16() for _ in range(count)
    ]
    numbers = [draw(st.lists(x, min_size=count, max_size=count)) for x in (WEIGHTS, THRESHOLDS)]
    return base, sources, *numbers


@settings(max_examples=draws(60), deadline=None)
@given(merges(), st.integers(0, 4), st.sampled_from([1.0, 0.3, -2.0]))
def test_the_result_is_that_of_the_paper_s_equations(case, agree: int, scale: float) -> None:
    base, sources, weights, thresholds = case
    agree = min(agree, len(sources))
    expected = paper(base, sources, weights, thresholds, agree, scale)
    out = merged("consensus", base, sources, weights, thresholds, agree=agree, **{"lambda": scale})
    np.testing.assert_allclose(out.numpy(), expected, rtol=1e-6, atol=1e-6)


@settings(max_examples=draws(40), deadline=None)
@given(merges(), st.integers(0, 4))
def test_each_element_is_that_of_task_arithmetic_or_of_the_base_bit_for_bit(case, agree) -> None:
    base, sources, weights, thresholds = case
    agree = min(agree, len(sources))
    out = merged("consensus", base, sources, weights, thresholds, agree=agree)
    summed = merged("task_arithmetic", base, sources, weights)
    assert ((out == summed) | (out == base.float())).all()
    if agree == 0:
        assert torch.equal(out, summed)


# All changes together are 0, which no mask has done, and which a float32 sum gives in some orders.
CANCELLED = torch.tensor(
    [[0.0015716553], [0.024291992], [0.0065002441], [-0.018432617], [-0.006072998]]
).bfloat16()

# The third and the fourth change cancel, so the first and the second are as large as what the
# others add to them; a float64 sum of all says so in some orders.
SHARED = torch.tensor([[0.0], [0.113], [0.113], [8.65], [-8.65]])


@settings(max_examples=draws(40), deadline=None)
@example((CANCELLED[0], list(CANCELLED[1:]), [0.683] * 4, [0.2, 1.0, 0.2, 0.0]), 3)
@example((SHARED[0], list(SHARED[1:]), [0.683] * 4, [1.0] * 4), 2)
@given(merges(), st.integers(1, 4))
def test_the_order_of_the_sources_decides_no_mask(case, agree: int) -> None:
    base, *lists = case
    agree = min(agree, len(lists[0]))
    kept, known = [], []
    for order in permutations(zip(*lists, strict=True)):
        sources, weights, thresholds = zip(*order, strict=True)
        out = merged("consensus", base, sources, weights, thresholds, agree=agree)
        kept.append(out != base.float())
        known.append(merged("task_arithmetic", base, sources, weights) != base.float())
    told = torch.stack(known).all(0)
    assert all(torch.equal(kept[0][told], other[told]) for other in kept)


@pytest.mark.parametrize("changes", [CANCELLED, SHARED], ids=["cancelled", "shared"])
def test_a_change_as_large_as_the_others_sum_is_not_larger(changes: torch.Tensor) -> None:
    base, *sources = changes
    for order in permutations(zip(sources, [1.0, 1.0, 100.0, 100.0], strict=True)):
        sources, thresholds = zip(*order, strict=True)
        out = merged("consensus", base, sources, [0.683] * 4, thresholds, agree=1)
        assert torch.equal(out, base.float())


@settings(max_examples=draws(20), deadline=None)
@given(merges(), st.integers(0, 3))
def test_of_one_source_with_weight_all_stays_if_one_mask_is_enough(case, only: int) -> None:
    base, sources, _, thresholds = case
    only = min(only, len(sources) - 1)
    weights = [0.7 * (i == only) for i in range(len(sources))]
    out = merged("consensus", base, sources, weights, thresholds, agree=1)
    assert torch.equal(out, merged("task_arithmetic", base, [sources[only]], [0.7]))
    out = merged("consensus", base, sources, weights, thresholds, agree=2)
    assert torch.equal(out, base.float())


@pytest.mark.parametrize("threshold", [0.2, 0.4, 0.6, 1.0])
def test_masks_agree_with_those_of_fusion_bench(threshold: float) -> None:
    data = load_file(Path(__file__).parent / "tall_masks.safetensors")
    sources, masks = [data[f"source{i}"] for i in range(3)], data[f"masks/{threshold}"]
    for agree in (1, 2, 3):
        out = merged("consensus", data["base"], sources, [1.0] * 3, [threshold] * 3, agree=agree)
        assert torch.equal(out != data["base"], masks.sum(0) >= agree)


def test_selfish_and_catastrophic_weights_are_removed() -> None:
    base = torch.zeros(4)
    # One source changes the first element; two, much more than the others, the second; all alike
    # the third, where the change of each is small beside that of the three others.
    changes = [[2.0, 3, 1, 0], [0.0, 2, 1, 0], [0.0, 0.5, 1, 0], [0.0, 0.5, 1, 0]]
    sources = [torch.tensor(change) for change in changes]
    kept = {k: merged("consensus", base, sources, [1.0] * 4, agree=k).tolist() for k in range(4)}
    assert kept == {0: [2, 6, 4, 0], 1: [2, 6, 0, 0], 2: [0, 6, 0, 0], 3: [0, 0, 0, 0]}


def test_more_masks_than_sources_are_refused() -> None:
    weights = [{"weight": 1.0}] * 2
    check_knobs(get_method("consensus"), weights, {"agree": 2.0}, has_base=True)
    with pytest.raises(RecipeError, match=r"'agree' .* is 3, but it has only 2 sources; give .* 2"):
        check_knobs(get_method("consensus"), weights, {"agree": 3.0}, has_base=True)
