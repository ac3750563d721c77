"""Merge methods: end points, symmetries, extreme inputs, and examples by hand.

The laws of every method are those of `evomerge.testing.check_method` (tests/testing).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from draws import draws
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.errors import CandidateError
from evomerge.merging.kernels.noise import Noise
from evomerge.merging.methods import get_method, method_names
from evomerge.merging.methods.method import check_knobs
from evomerge.testing.methods import on_tensors

ALL = method_names()
TASK_VECTORS = [name for name in ALL if any(k.name == "lambda" for k in get_method(name).knobs)]
SPARSE = [
    name
    for name in TASK_VECTORS
    if name != "task_arithmetic" and any(k.name == "density" for k in get_method(name).knobs)
]
SUMS = ["task_arithmetic", "dare_linear", "della_linear", "breadcrumbs"]
ELECTED = [name for name in SPARSE if name not in SUMS]

SHAPES = [(), (1,), (7,), (3, 5), (1, 6), (4, 33), (2, 3, 4)]
NEEDED = {"t": 0.3, "density": 0.6}
"""Values of knobs without a default, and a density with which sparsifiers drop elements."""

FEW = settings(max_examples=draws(10), deadline=None)

Given = Sequence[Mapping[str, float]]


def tensors(
    shape: Sequence[int], count: int, seed: int, dtype: torch.dtype = torch.float32
) -> list[torch.Tensor]:
    """Tensors like those of fine-tuned models: a base and small bf16 changes, many of them tied."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=generator)
    made = [base + 0.05 * torch.randn(shape, generator=generator) for _ in range(count)]
    return [tensor.bfloat16().to(dtype) for tensor in (base, *made)]


def count_of(name: str) -> int:
    """Number of sources that a method is tested with."""
    most = get_method(name).parents[1]
    return 3 if most is None else most


def merged(
    name: str,
    sources: Sequence[torch.Tensor],
    base: torch.Tensor | None,
    given: Given | None = None,
    knobs: Mapping[str, float] | None = None,
    *,
    reuse: bool = False,
    out: torch.dtype | None = None,
    seed: int = 0,
) -> torch.Tensor:
    """Merge with the given knobs; others have the value in `NEEDED` or their default."""
    method = get_method(name)

    def filled(own: Mapping[str, float], per: str) -> dict[str, float]:
        wanted = {k.name: NEEDED[k.name] for k in method.knobs if k.per == per and k.name in NEEDED}
        if name == "task_arithmetic":
            wanted.pop("density", None)
        return {**wanted, **own}

    complete = check_knobs(
        method,
        [filled(own, "source") for own in given or [{} for _ in sources]],
        filled(knobs or {}, "merge"),
        has_base=base is not None,
    )
    noise = [Noise(seed, f"parent {i}", "tensor") for i in range(len(sources))]
    used = base if method.base != "none" else None
    result = torch.empty(sources[0].shape, dtype=out or sources[0].dtype)
    merge = on_tensors(method.prepare)(sources, used, noise if method.random else (), reuse=reuse)
    merge(*complete, result)
    return result


def same_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether two tensors are equal bit for bit (NaN equals NaN, 0 differs from -0)."""
    assert left.dtype == right.dtype and left.shape == right.shape
    return (
        left.contiguous()
        .view(-1)
        .view(torch.uint8)
        .equal(right.contiguous().view(-1).view(torch.uint8))
    )


cases = st.tuples(
    st.sampled_from(SHAPES),
    st.integers(0, 50),
    st.sampled_from([torch.float32, torch.bfloat16]),
)


ROW_WISE: list[tuple[str, tuple[int, int], dict[str, float]]] = [
    (name, shape, knobs)
    for name, knobs in (
        *(("nuslerp", {"nuslerp_flatten": 0.0, "nuslerp_row_wise": rows}) for rows in (0.0, 1.0)),
        ("model_stock", {"filter_wise": 1.0}),
    )
    for shape in ((3, 70_000), (70_000, 3))
]


@pytest.mark.parametrize(
    ("name", "shape", "knobs"), [*((name, (640, 512), {}) for name in ALL), *ROW_WISE]
)
def test_bits_are_the_same_on_any_number_of_threads(
    name: str, shape: tuple[int, int], knobs: dict[str, float], threads: Any
) -> None:
    base, *sources = tensors(shape, count_of(name), 1, torch.bfloat16)
    threads(1)
    expected = merged(name, sources, base, knobs=knobs)
    for count, reuse in ((2, False), (2, True), (5, False), (1, True)):
        threads(count)
        assert same_bits(merged(name, sources, base, knobs=knobs, reuse=reuse), expected)


SCALED = [name for name in ALL if name not in ("ram", "ramplus", "nearswap", "arcee_fusion")]


@pytest.mark.parametrize("name", SCALED)
@FEW
@given(case=cases)
def test_doubling_every_weight_doubles_the_result(name: str, case: Any) -> None:
    shape, seed, dtype = case
    base, *sources = tensors(shape, count_of(name), seed, dtype)
    expected = merged(name, sources, base) * 2
    assert same_bits(merged(name, [2 * x for x in sources], 2 * base), expected)


ORDERLESS = [
    name for name in ALL if get_method(name).parents[1] is None and not get_method(name).random
]


@pytest.mark.parametrize("name", ORDERLESS)
@FEW
@given(case=cases)
def test_the_order_of_the_sources_does_not_matter(name: str, case: Any) -> None:
    shape, seed, dtype = case
    base, *sources = tensors(shape, 3, seed, dtype)
    weighted = any(knob.name == "weight" for knob in get_method(name).knobs)
    given = [{"weight": w} for w in (0.5, 0.25, 0.125)] if weighted else [{}] * 3
    forward = merged(name, sources, base, given, out=torch.float32)
    backward = merged(name, sources[::-1], base, given[::-1], out=torch.float32)
    torch.testing.assert_close(forward, backward, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["dare_linear", "dare_ties", "della", "della_linear"])
def test_noise_belongs_to_the_parent_not_to_its_place(name: str) -> None:
    base, *sources = tensors((60, 50), 2, 3)
    method = get_method(name)
    noise = [Noise(0, parent, "tensor") for parent in ("a", "b")]
    knobs = check_knobs(method, [{"density": 0.4}] * 2, {}, has_base=True)
    results = []
    for order in (1, -1):
        out = torch.empty_like(base)
        on_tensors(method.prepare)(sources[::order], base, noise[::order], reuse=False)(*knobs, out)
        results.append(out)
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-7)
    other = merged(name, sources, base, [{"density": 0.4}] * 2, seed=1)
    assert not torch.equal(results[0], other)


def test_dare_keeps_density_and_divides_by_it() -> None:
    parent = torch.full((1 << 18,), 0.25)
    out = merged("dare_linear", [parent], torch.zeros(1 << 18), [{"density": 0.3}])
    kept = out != 0
    assert abs(float(kept.float().mean()) - 0.3) < 0.004
    torch.testing.assert_close(out[kept], torch.full_like(out[kept], 0.25 / 0.3), rtol=1e-4, atol=0)


def test_della_keeps_large_changes_of_a_row_more_often() -> None:
    rows, width = 4096, 64
    parent = torch.arange(1, width + 1) / width * torch.linspace(0.01, 1, rows)[:, None]
    own = [{"density": 0.5, "epsilon": 0.2}]
    out = merged("della_linear", [parent], torch.zeros_like(parent), own)
    chances, expected = (out != 0).float().mean(0), torch.linspace(0.3, 0.7, width)
    assert float((chances - expected).abs().max()) < 4 * (0.25 / rows) ** 0.5
    norms = out.abs().sum(1).mean() / parent.abs().sum(1).mean()
    assert abs(float(norms) - 1) < 0.01


@FEW
@given(case=cases)
def test_all_weight_on_one_source_gives_that_source(case: Any) -> None:
    shape, seed, dtype = case
    _, *sources = tensors(shape, 2, seed, dtype)
    for t in (0, 1):
        assert same_bits(merged("slerp", sources, None, knobs={"t": t}), sources[t])
        for name in ("linear", "nuslerp"):
            weights = [{"weight": 3 * (1 - t)}, {"weight": t}]
            assert same_bits(merged(name, sources, None, weights), sources[t])


def test_slerp_keeps_to_the_sphere_and_to_the_angle() -> None:
    first, second = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 3.0])
    for t in (0.25, 0.5, 0.9):
        angle = torch.tensor(t * torch.pi / 2)
        expected = 3 * torch.stack([angle.cos(), angle.sin()])
        for result in (
            merged("slerp", [first, second], None, knobs={"t": t}),
            merged("nuslerp", [first, second], None, [{"weight": 1 - t}, {"weight": t}]),
        ):
            torch.testing.assert_close(result, expected)
    middle = 3 * torch.full((2,), 0.5**0.5)
    for name in ("multislerp", "karcher"):
        torch.testing.assert_close(merged(name, [first, second], None), middle)


@pytest.mark.parametrize("name", TASK_VECTORS)
@FEW
@given(case=cases)
def test_task_vectors_without_weight_leave_the_base(name: str, case: Any) -> None:
    shape, seed, dtype = case
    base, *sources = tensors(shape, 3, seed, dtype)
    if any(knob.name == "weight" for knob in get_method(name).knobs):
        assert same_bits(merged(name, sources, base, [{"weight": 0}] * 3), base)
    assert same_bits(merged(name, sources, base, knobs={"lambda": 0}), base)
    if name in SPARSE:
        assert same_bits(merged(name, sources, base, [{"density": 0}] * 3), base)


@pytest.mark.parametrize("name", ALL)
@FEW
@given(case=cases)
def test_merging_a_model_with_itself_gives_it_back(name: str, case: Any) -> None:
    shape, seed, dtype = case
    (base,) = tensors(shape, 0, seed, dtype)
    result = merged(name, [base] * count_of(name), base, out=torch.float32)
    torch.testing.assert_close(result, base.float(), rtol=2e-6, atol=1e-7)
    if get_method(name).base == "required":
        assert same_bits(result, base.float())


@pytest.mark.parametrize("name", [*ELECTED, "sce", "model_stock", "ram"])
@FEW
@given(case=cases)
def test_identical_parents_away_from_the_base_give_the_parent(name: str, case: Any) -> None:
    shape, seed, dtype = case
    base, parent = tensors(shape, 1, seed, dtype)
    whole = [{"density": 1}] * 3 if name in SPARSE else None
    normalize = {"normalize": 1} if name in SPARSE else {}
    result = merged(name, [parent] * 3, base, whole, normalize, out=torch.float32)
    torch.testing.assert_close(result, parent.float(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", SUMS)
def test_at_density_1_nothing_is_dropped(name: str) -> None:
    base, *sources = tensors((30, 20), 3, 5)
    own = [{"weight": w, "density": 1} for w in (0.5, -0.3, 0.8)]
    expected = merged("task_arithmetic", sources, base, own)
    assert same_bits(merged(name, sources, base, own), expected)


def kept_by_magnitude(delta: np.ndarray, count: int, skipped: int = 0) -> np.ndarray:
    """A simple implementation: a stable sort by descending magnitude."""
    order = np.argsort(-np.abs(delta), kind="stable")
    kept = np.zeros_like(delta)
    chosen = order[skipped : skipped + count]
    kept[chosen] = delta[chosen]
    return kept


@pytest.mark.parametrize("size", [1, 2, 50, 65_537, 200_003])
@pytest.mark.parametrize("levels", [0, 1, 3, 1000])
@pytest.mark.parametrize("reuse", [False, True])
def test_exactly_the_asked_share_stays_lowest_index_first(
    size: int, levels: int, reuse: bool
) -> None:
    generator = np.random.default_rng(size + levels)
    delta = generator.integers(-levels, levels + 1, size).astype(np.float32)
    for density in (0.01, 0.3, 0.5, 0.999):
        knobs = {"normalize": 0.0}
        for name, gamma in (("ties", 0.0), ("breadcrumbs", 0.1)):
            own = {"density": density} | ({"gamma": gamma} if gamma else {})
            out = merged(
                name, [torch.from_numpy(delta)], torch.zeros(size), [own], knobs, reuse=reuse
            )
            count = int(density * size)
            expected = kept_by_magnitude(delta, count, min(int(gamma * size), size - count))
            assert np.array_equal(out.numpy(), expected)


@pytest.mark.parametrize("name", ["ties", "breadcrumbs"])
def test_rescale_keeps_the_norm_of_a_sparse_task_vector(name: str) -> None:
    base, source = tensors((300, 300), 1, 6)
    for reuse in (False, True):
        out = merged(
            name, [source], base, [{"density": 0.3}], {"rescale": 1, "normalize": 0}, reuse=reuse
        )
        change, whole = (out - base).abs().sum(), (source - base).abs().sum()
        torch.testing.assert_close(change, whole, rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", ALL)
def test_a_nan_never_vanishes(name: str) -> None:
    base, *sources = tensors((9, 11), count_of(name), 7)
    sources[0][4, 5] = torch.nan
    for reuse in (False, True):
        assert merged(name, sources, base, reuse=reuse)[4, 5].isnan()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("shape", SHAPES)
def test_zeros_merge_to_zeros(name: str, shape: tuple[int, ...]) -> None:
    zeros = [torch.zeros(shape)] * count_of(name)
    assert not merged(name, zeros, torch.zeros(shape)).any()


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("linear", "change a weight or set normalize to false."),
        ("task_arithmetic", "change a weight or set normalize to false."),
        ("dare_linear", "change a weight or set normalize to false."),
        ("multislerp", "change a weight or set normalize_weights to false."),
        ("nuslerp", "change a weight."),
    ],
)
def test_weights_that_cancel_cannot_be_normalized(name: str, remedy: str) -> None:
    base, *sources = tensors((3, 3), 2, 8)
    flag = {"normalize": 1} if "slerp" not in name else {}
    told = re.escape(f"[1.0, -1.0] sum to 0 and cannot be normalized; {remedy}")
    with pytest.raises(CandidateError, match=told + "$"):
        merged(name, sources, base, [{"weight": 1.0}, {"weight": -1.0}], flag)


@pytest.mark.parametrize("name", ["slerp", "nuslerp"])
def test_a_vector_of_zeros_is_orthogonal_to_every_vector(name: str) -> None:
    """As in mergekit: a task vector of zeros stands for a direction at random."""
    (vector,) = tensors((3, 5), 0, 12)
    zeros = torch.zeros(3, 5)
    t = 0.25
    knobs: list[Any] = [{"t": t}] if name == "slerp" else [{}]
    knobs += [{"nuslerp_flatten": 0, "nuslerp_row_wise": i} for i in (0, 1)] * (name == "nuslerp")
    given = [{"weight": 1 - t}, {"weight": t}] if name == "nuslerp" else None
    factors = [np.cos(t * np.pi / 2), np.sin(t * np.pi / 2)]
    for own in knobs:
        for sources, factor in zip(([vector, zeros], [zeros, vector]), factors, strict=True):
            torch.testing.assert_close(merged(name, sources, None, given, own), factor * vector)
    if name == "nuslerp":
        out = merged(name, [vector + 1, vector], vector, given)
        torch.testing.assert_close(out, vector + factors[0])


def test_passthrough_scales() -> None:
    (source,) = tensors((5, 5), 0, 10, torch.bfloat16)
    assert same_bits(merged("passthrough", [source], None), source)
    assert same_bits(merged("passthrough", [source], None, [{"scale": -0.5}]), source * -0.5)


TIES = [[3.0, 1, -1, 0], [1.0, 1, 3, 0], [-2.0, -2, 0, -4]]
HEAVY = [{"weight": weight, "density": 1} for weight in (1, 1, 2)]
NEAR = [[1.0, 0], [0.5, 0.75**0.5]]
SCE, ONE = [[4.0, 1, -1, 2], [-3.0, 2, 2, 3]], [[5.0, 2, 0, 3], [1.0] * 4]
VARYING = [[0.1, 4, 1, 0, 0, 0], [0.1, 0, 0, 0, 0, 0], [0.1, 0, 0, 0, 0, 0]]
RAM, HALF = [[1.0, 2, 0, 0], [0.0, 4, 0, 8]], {"select_topk": 0.5}
EXAMPLES: list[tuple[str, float, Any, Any, dict[str, float], list[float]]] = [
    # name, all weights of the base, sources, their knobs, knobs of the merge, result
    ("ties", 0, TIES, HEAVY, {"normalize": 0}, [4, -4, 3, -8]),
    ("ties", 0, TIES, HEAVY, {}, [2, -2, 3, -4]),
    ("ties", 0, [[2.0, -1, 0]], [{"weight": -0.5, "density": 1}], {}, [-2, 1, 0]),
    ("model_stock", 0, [[1.0, 0], [0.0, 1]], None, {}, [0, 0]),
    ("model_stock", 0, NEAR, None, {}, [0.5, 0.75**0.5 / 3]),
    # The first and third element vary most; energies there are 17 and 13; +4 and +2 are elected.
    ("sce", 0, SCE, None, HALF, [4, 0, 2, 0]),
    ("sce", 0, SCE, None, {"select_topk": 1}, [4, 74 / 48, 2, 122 / 48]),  # energies 22 and 26
    ("sce", 1, ONE, None, {}, ONE[0]),  # a source without a change has the weight 0
    ("sce", 1, ONE[::-1], None, HALF, [5, 1, 1, 3]),
    ("sce", 1, [ONE[1]] * 2, None, HALF, ONE[1]),
    ("sce", 0, VARYING, None, HALF, [0, 4, 0, 0, 0, 0]),  # a share of those that vary
    ("sce", 0, [VARYING[0]] * 3, None, {"select_topk": 0.9}, [0] * 6),
    ("ram", 0, RAM, None, {}, [1, 3, 0, 8]),
    ("ramplus", 0, RAM, None, {"r": 0.5, "alpha": 0.4}, [1.2, 3, 0, 9.6]),
    ("nearswap", 0, [[0.25, -3, 1]], None, {"t": 0.5}, [0.25, -0.5, 0.5]),
    # Equally important weights, so that the threshold is their own.
    ("arcee_fusion", 0, [[0.5, -0.5] * 4], None, {}, [0.5, -0.5] * 4),
]


@pytest.mark.parametrize(("name", "base", "sources", "own", "shared", "expected"), EXAMPLES)
@pytest.mark.parametrize("reuse", [False, True])
def test_small_examples_by_hand(
    name: str,
    base: float,
    sources: list[list[float]],
    own: Given | None,
    shared: dict[str, float],
    expected: list[float],
    reuse: bool,
) -> None:
    parents = [torch.tensor(values) for values in sources]
    start = torch.full_like(parents[0], base)
    out = merged(name, parents, start, own, shared, reuse=reuse)
    torch.testing.assert_close(out, torch.tensor(expected, dtype=torch.float32))
