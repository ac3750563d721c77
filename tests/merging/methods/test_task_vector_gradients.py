"""Gradients of methods that sparsify task vectors equal differences of their merges."""

from itertools import product

import numpy as np
import pytest

from evomerge.merging.kernels.consensus import Consensus
from evomerge.merging.kernels.noise import Noise
from evomerge.merging.methods import get_method, method_names
from evomerge.merging.methods.method import Operands

METHODS = [
    name for name in method_names() if any(k.name == "rescale" for k in get_method(name).knobs)
]
WEIGHTS = ((0.7, 1.1, 0.4), (0.7, -0.5, 0.4), (0.7, 1.1, 0.0))
SHAPE = (700, 96)
"""More than one span of a pass."""


class Merges:
    """The merges of three random task vectors; the base is 0, so they are exact."""

    def __init__(self, name):
        draws = np.random.default_rng(0)
        self.method = get_method(name)
        sources = [draws.normal(size=SHAPE).astype(np.float32) for _ in range(3)]
        noise = [Noise(0, str(place), "weight") for place in range(3)]
        self.merge = self.method.prepare(
            Operands(sources, np.zeros(SHAPE, np.float32), noise, reuse=True)
        )
        self.gradient = draws.normal(size=SHAPE).astype(np.float32)

    def knobs(self, weights, shared):
        defaults = {knob.name: knob.default for knob in self.method.knobs}
        share = 1.0 if self.method.name == "task_arithmetic" else 0.5
        sources = [{**defaults, "weight": weight, "density": share} for weight in weights]
        return sources, {**defaults, **shared}

    def __call__(self, weights, **shared):
        out = np.empty(SHAPE, dtype=np.float32)
        self.merge(*self.knobs(weights, shared), out)
        return out.astype(np.float64)

    def gradients(self, weights, gradient, **shared):
        return self.merge.gradients(*self.knobs(weights, shared), gradient.reshape(-1))


@pytest.mark.parametrize("name", METHODS)
def test_they_equal_differences_where_no_sign_turns(name):
    """Where a sum is nearly 0, and where it jumps as a weight of 0 begins to count, none is."""
    merges, step = Merges(name), 1e-3
    for weights, normalize, rescale in product(WEIGHTS, (0, 1), (0, 1)):
        shared = {"normalize": normalize, "rescale": rescale, "lambda": 0.8}
        alone = {**shared, "normalize": 0, "lambda": 1.0}
        parts = [weights[i] * merges(np.eye(3)[i], **alone) for i in range(3)]
        whole = np.abs(parts).sum(0)
        known = whole > 0 if normalize else np.full(SHAPE, True)
        far = (np.abs(np.sum(parts, 0)) >= 0.31 * whole + 0.01) | (whole == 0)
        gradient = np.where(known & far, merges.gradient, 0).astype(np.float32)
        found = merges.gradients(weights, gradient, **shared)
        expected = {}
        for place, weight in enumerate(weights):
            ends = [np.array(weights) + step * sign * np.eye(3)[place] for sign in (-1, 1)]
            low, high = (merges(end, **shared) for end in ends)
            if weight == 0:
                low = merges(weights, **shared)
            width = step if weight == 0 else 2 * step
            expected[place, "weight"] = ((high - low) * gradient).sum() / width
        expected[None, "lambda"] = (merges(weights, **{**shared, "lambda": 1.0}) * gradient).sum()
        assert found == pytest.approx(expected, rel=5e-3, abs=0.2), (weights, shared)
        assert max(map(abs, expected.values())) > 5


@pytest.mark.parametrize("name", ["ties", "dare_ties", "della", "breadcrumbs_ties"])
def test_signs_that_turn_count_by_their_number(name):
    """The gradient pulls to the first source, which more elements follow with a larger weight."""
    merges, weights, step = Merges(name), (0.7, 1.1, 0.4), 0.05
    gradient = merges(np.eye(3)[0]).astype(np.float32)
    found = merges.gradients(weights, gradient)[0, "weight"]
    low, high = (merges((0.7 + h, 1.1, 0.4)) for h in (-step, step))
    expected = float(((high - low) * gradient).sum() / (2 * step))
    assert found == pytest.approx(expected, rel=0.1)
    sources = np.stack([merges(np.eye(3)[place]) for place in range(3)]).reshape(3, -1)

    def changes(span, values):
        values[:] = sources[:, span]

    divisors = weights if name in ("ties", "della") else None
    consensus = Consensus(changes=changes, factors=weights, divisors=divisors)
    own, shared, _ = consensus.elected_products(gradient.reshape(-1), margin=0.0)
    held = own[0] - (shared[0] if divisors else 0)
    assert abs(held - expected) > 0.2 * abs(expected)


@pytest.mark.parametrize("name", ["ties", "breadcrumbs", "dare_ties"])
def test_where_nothing_stays_they_are_0(name):
    merges = Merges(name)
    sources, shared = merges.knobs((1.0, 1.0, 1.0), {})
    nothing = [{**source, "density": 0.0} for source in sources]
    gradient = merges.gradient.reshape(-1)
    assert not any(merges.merge.gradients(nothing, shared, gradient).values())
