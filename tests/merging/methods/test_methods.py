"""Merge methods: end points, symmetries, extremes, examples by hand (laws are in tests/testing)."""

import textwrap
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, EntryPoints
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from draws import draws
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge import registry
from evomerge.errors import CandidateError, RecipeError
from evomerge.merging.kernels.noise import Noise
from evomerge.merging.methods import get_method, method_names, task_vectors
from evomerge.merging.methods.averages import slerp
from evomerge.merging.methods.method import check_knobs
from evomerge.testing.methods import on_tensors

ALL = method_names()
SUMS = ["task_arithmetic", "dare_linear", "della_linear", "breadcrumbs"]
ELECTED = ["ties", "dare_ties", "della", "breadcrumbs_ties"]
SPARSE = [*SUMS[1:], *ELECTED]

SHAPES = [(), (1,), (7,), (3, 5), (1, 6), (4, 33), (2, 3, 4)]
NEEDED = {"t": 0.3, "density": 0.6}
"""Values of knobs without a default, and a density with which sparsifiers drop elements."""

FEW = settings(max_examples=draws(10), deadline=None)

Given = Sequence[Mapping[str, float]]


def tensors(shape, count, seed, dtype=torch.float32):
    """Tensors like those of fine-tuned models: a base and small bf16 changes, many of them tied."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=generator)
    made = [base + 0.05 * torch.randn(shape, generator=generator) for _ in range(count)]
    return [tensor.bfloat16().to(dtype) for tensor in (base, *made)]


def count_of(name):
    """Number of sources that a method is tested with."""
    most = get_method(name).parents[1]
    return 3 if most is None else most


def merged(name, sources, base, given=None, knobs=None, *, reuse=False, out=None, seed=0):
    """Merge with the given knobs; others have the value in `NEEDED` or their default."""
    method = get_method(name)

    def filled(own, per):
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


def same_bits(left, right):
    """Whether two tensors are equal bit for bit (NaN equals NaN, 0 differs from -0)."""
    assert left.dtype == right.dtype and left.shape == right.shape
    one, two = (it.contiguous().view(-1).view(torch.uint8) for it in (left, right))
    return torch.equal(one, two)


DTYPES = st.sampled_from([torch.float32, torch.bfloat16])
cases = st.tuples(st.sampled_from(SHAPES), st.integers(0, 50), DTYPES)
ROWS: list[tuple[str, dict[str, float]]] = [
    *(("nuslerp", {"nuslerp_flatten": 0.0, "nuslerp_row_wise": rows}) for rows in (0.0, 1.0)),
    ("model_stock", {"filter_wise": 1.0}),
]
ROW_WISE = [(*row, shape) for row in ROWS for shape in ((3, 70_000), (70_000, 3))]


@pytest.mark.parametrize(
    ("name", "knobs", "shape"), [*((name, {}, (640, 512)) for name in ALL), *ROW_WISE]
)
def test_bits_are_the_same_on_any_number_of_threads(name, knobs, shape, threads):
    base, *sources = tensors(shape, count_of(name), 1, torch.bfloat16)
    threads(1)
    expected = merged(name, sources, base, knobs=knobs)
    for count, reuse in ((2, False), (2, True), (5, False), (1, True)):
        threads(count)
        assert same_bits(merged(name, sources, base, knobs=knobs, reuse=reuse), expected)


@pytest.mark.parametrize(("name", "knobs"), ROWS)
def test_rows_of_stacked_experts_are_those_of_each_expert(name, knobs):
    """As in mergekit, whose vectors lie along the last dimension, or row-wise along the first."""
    base, *sources = tensors((4, 6, 8), count_of(name), 4)
    own = [{"weight": 0.75}, {"weight": 0.25}] if name == "nuslerp" else None
    stacked = merged(name, sources, base, own, knobs)
    along_experts = knobs.get("nuslerp_row_wise", 0.0)
    parts = [[it] if along_experts else it for it in (base, *sources)]
    shape = (4, 48) if along_experts else (6, 8)
    experts = [
        merged(name, [it.reshape(shape) for it in rest], first.reshape(shape), own, knobs)
        for first, *rest in zip(*parts, strict=True)
    ]
    torch.testing.assert_close(stacked, torch.stack(experts).view_as(stacked))


METHODS = map(get_method, ALL)
ORDERLESS = [it.name for it in METHODS if it.parents[1] is None and not it.random]


@pytest.mark.parametrize("name", ORDERLESS)
@FEW
@given(case=cases)
def test_the_order_of_the_sources_does_not_matter(name, case):
    shape, seed, dtype = case
    base, *sources = tensors(shape, 3, seed, dtype)
    weighted = any(knob.name == "weight" for knob in get_method(name).knobs)
    given = [{"weight": w} for w in (0.5, 0.25, 0.125)] if weighted else [{}] * 3
    forward = merged(name, sources, base, given, out=torch.float32)
    backward = merged(name, sources[::-1], base, given[::-1], out=torch.float32)
    torch.testing.assert_close(forward, backward, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["dare_linear", "dare_ties", "della", "della_linear"])
def test_noise_belongs_to_the_parent_not_to_its_place(name):
    base, *sources = tensors((60, 50), 2, 3)
    method, results = get_method(name), []
    knobs = check_knobs(method, [{"density": 0.4}] * 2, {}, has_base=True)
    for names in ("ab", "ba", "ac"):
        noise = [Noise(0, parent, "tensor") for parent in names]
        own = sources[::-1] if names == "ba" else sources
        results.append(torch.empty_like(base))
        on_tensors(method.prepare)(own, base, noise)(*knobs, results[-1])
    torch.testing.assert_close(*results[:2], rtol=1e-6, atol=1e-7)
    assert not torch.equal(results[0], results[2])


def test_dare_keeps_density_and_divides_by_it():
    parent = torch.full((1 << 18,), 0.25)
    out = merged("dare_linear", [parent], torch.zeros(1 << 18), [{"density": 0.3}])
    kept = out[out != 0]
    assert abs(len(kept) / len(out) - 0.3) < 0.004
    torch.testing.assert_close(kept, torch.full_like(kept, 0.25 / 0.3), rtol=1e-4, atol=0)


def test_della_keeps_large_changes_of_a_row_more_often():
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
def test_all_weight_on_one_source_gives_that_source(case):
    shape, seed, dtype = case
    _, *sources = tensors(shape, 2, seed, dtype)
    for t in (0, 1):
        assert same_bits(merged("slerp", sources, None, knobs={"t": t}), sources[t])
        for name in ("linear", "nuslerp"):
            weights = [{"weight": 3 * (1 - t)}, {"weight": t}]
            assert same_bits(merged(name, sources, None, weights), sources[t])


@pytest.mark.parametrize("name", [*SUMS, *ELECTED, "tsv"])
@FEW
@given(case=cases)
def test_task_vectors_without_weight_leave_the_base(name, case):
    shape, seed, dtype = case
    base, *sources = tensors(shape, 3, seed, dtype)
    assert same_bits(merged(name, sources, base, knobs={"lambda": 0}), base)
    for knob in ("weight", "density")[: 0 if name == "tsv" else 1 + (name in SPARSE)]:
        assert same_bits(merged(name, sources, base, [{knob: 0}] * 3), base)


@pytest.mark.parametrize("name", ALL)
@FEW
@given(case=cases)
def test_merging_a_model_with_itself_gives_it_back(name, case):
    shape, seed, dtype = case
    (base,) = tensors(shape, 0, seed, dtype)
    result = merged(name, [base] * count_of(name), base, out=torch.float32)
    torch.testing.assert_close(result, base.float(), rtol=2e-6, atol=1e-7)
    if get_method(name).base == "required":
        assert same_bits(result, base.float())


@pytest.mark.parametrize("name", SUMS)
def test_at_density_1_nothing_is_dropped(name):
    base, *sources = tensors((30, 20), 3, 5)
    own = [{"weight": w, "density": 1} for w in (0.5, -0.3, 0.8)]
    expected = merged("task_arithmetic", sources, base, own)
    assert same_bits(merged(name, sources, base, own), expected)


@pytest.mark.parametrize("size", [1, 2, 50, 65_537, 200_003])
@pytest.mark.parametrize("levels", [0, 1, 3, 1000, 1 << 23])
@pytest.mark.parametrize("reuse", [False, True])
def test_exactly_the_asked_share_stays_lowest_index_first(size, levels, reuse):
    generator = np.random.default_rng(size + levels)
    delta = generator.integers(-levels, levels + 1, size).astype(np.float32)
    order = np.argsort(-np.abs(delta), kind="stable")
    source, base = torch.from_numpy(delta), torch.zeros(size)
    for density in (0.01, 0.3, 0.5, 0.999):
        for name, gamma in (("ties", 0.0), ("breadcrumbs", 0.1)):
            own = {"density": density} | ({"gamma": gamma} if gamma else {})
            out = merged(name, [source], base, [own], {"normalize": 0.0}, reuse=reuse)
            count = int(density * size)
            skipped = min(int(gamma * size), size - count)
            chosen, expected = order[skipped : skipped + count], np.zeros_like(delta)
            expected[chosen] = delta[chosen]
            assert np.array_equal(out.numpy(), expected)


@pytest.mark.parametrize("name", ALL)
def test_a_nan_never_vanishes(name):
    base, *sources = tensors((9, 11), count_of(name), 7)
    sources[0][4, 5] = torch.nan
    for reuse in (False, True):
        assert merged(name, sources, base, reuse=reuse)[4, 5].isnan()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("shape", SHAPES)
def test_zeros_merge_to_zeros(name, shape):
    zeros = [torch.zeros(shape)] * count_of(name)
    assert not merged(name, zeros, torch.zeros(shape)).any()


@pytest.mark.parametrize("name", ["linear", "dare_linear", "multislerp", "nuslerp"])
def test_weights_that_cancel_cannot_be_normalized(name):
    base, *sources = tensors((3, 3), 2, 8)
    flag = {"multislerp": "normalize_weights", "nuslerp": ""}.get(name, "normalize")
    told = r"\[1.0, -1.0\] sum to 0 and cannot be normalized; change a weight"
    told += f" or set {flag} to false" if flag else ""
    with pytest.raises(CandidateError, match=rf"{told}\.$"):
        knobs = {"normalize": 1.0} if flag == "normalize" else {}
        merged(name, sources, base, [{"weight": 1.0}, {"weight": -1.0}], knobs)


@pytest.mark.parametrize(("name", "knobs"), [("slerp", {"t": 0.25}), ("nuslerp", {}), *ROWS[:2]])
def test_a_vector_of_zeros_is_orthogonal_to_every_vector(name, knobs):
    """As in mergekit: a task vector of zeros stands for a direction at random."""
    (vector,) = tensors((3, 5), 0, 12)
    zeros, own = torch.zeros(3, 5), [{"weight": 0.75}, {"weight": 0.25}]
    given, angle = own if name == "nuslerp" else None, np.pi / 8
    for sources, factor in (([vector, zeros], np.cos(angle)), ([zeros, vector], np.sin(angle))):
        torch.testing.assert_close(merged(name, sources, None, given, knobs), factor * vector)
        if name == "nuslerp":
            changed = merged(name, [it + vector for it in sources], vector, given, knobs)
            torch.testing.assert_close(changed, vector + factor * vector)


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


@pytest.mark.parametrize("example", EXAMPLES)
@pytest.mark.parametrize("reuse", [False, True])
def test_small_examples_by_hand(example, reuse):
    name, base, sources, own, shared, expected = example
    parents = [torch.tensor(values) for values in sources]
    start = torch.full_like(parents[0], base)
    out = merged(name, parents, start, own, shared, reuse=reuse)
    torch.testing.assert_close(out, torch.tensor(expected, dtype=torch.float32))


def plain_form(text):
    """Return the functions in the code of a docstring, by name."""
    functions = {"np": np}
    exec(textwrap.dedent(text.split("::\n\n")[1]), functions)
    return SimpleNamespace(**functions)


@FEW
@given(st.integers(0, 1000), st.sampled_from([1, 2, 5, 8]), st.booleans())
def test_fast_loops_compute_the_plain_form_in_their_docstrings(seed, eighths, reuse):
    plain, arc = plain_form(task_vectors.__doc__), plain_form(slerp.function.__doc__).arc
    generator, size, density = np.random.default_rng(seed), 41, eighths / 8
    # Without equal magnitudes, whose ranks differ between the forms.
    signs = generator.choice([-1.0, 1.0], (3, size))
    x = signs * generator.permuted(np.tile(np.arange(1.0, size + 1) / 16, (3, 1)), axis=1)
    noise = [Noise(0, f"parent {i}", "tensor").array(0, size) for i in range(3)]
    u, weights = (np.array(noise) + 32768.0) / 65536, generator.normal(size=3)
    base, sources = torch.zeros(size), [torch.from_numpy(row).float() for row in x]

    def fast(name, knobs=None, **own):
        given = [{"weight": weight, "density": density, **own} for weight in weights]
        return merged(name, sources, base, given, knobs, reuse=reuse)

    epsilon = min(0.1, density, 1 - density)
    kept = np.array([plain.largest(row, density) for row in x])
    middle = np.array([plain.largest(row, density, 0.1) for row in x])
    drawn = np.array([plain.drawn(*pair) for pair in zip(x, [density] * 3, u, strict=True)])
    ranked = np.array([plain.drawn_by_rank(x[i], density, epsilon, u[i]) for i in range(3)])
    for name, sparse, knobs in (
        ("ties", kept, {}), ("breadcrumbs", middle, {"gamma": 0.1}), ("dare_linear", drawn, {}),
        ("dare_ties", drawn, {}), ("della", ranked, {"epsilon": 0.1}),
        ("della_linear", ranked, {"epsilon": 0.1}),
    ):  # fmt: skip
        if name in SUMS:
            expected = plain.summed(sparse, weights)
        else:
            expected = plain.elected(sparse, weights, normalize=name in ("ties", "della"))
        result = fast(name, **knobs).double()
        torch.testing.assert_close(result, torch.from_numpy(expected), rtol=1e-4, atol=1e-5)
    result = merged("slerp", sources[:2], None, knobs={"t": density}).double()
    torch.testing.assert_close(result, torch.from_numpy(arc(*x[:2], density)), rtol=1e-4, atol=1e-5)


def test_another_package_can_add_a_method(monkeypatch):
    added = [
        EntryPoint("mine", "evomerge.merging.methods.averages:linear", "evomerge.methods"),
        EntryPoint("linear", "evomerge.merging.methods.averages:passthrough", "evomerge.methods"),
        EntryPoint("broken", "no_such_module:METHOD", "evomerge.methods"),
    ]
    monkeypatch.setattr(
        registry, "_entry_points", lambda group, *_: EntryPoints(added).select(group=group)
    )
    assert method_names()[-2:] == ("broken", "mine")
    assert get_method("mine").name == "linear"
    assert get_method("linear").name == "linear"  # what evomerge brings is not replaced
    with pytest.raises(RecipeError, match="'broken' of the entry point 'no_such_module:METHOD'"):
        get_method("broken")
