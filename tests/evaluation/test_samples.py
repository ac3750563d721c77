"""Samples of a race: nested, allocated by weight, with unbiased estimates."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from draws import draws
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.evaluation.racing import (
    allocate,
    differences,
    estimate,
    expected_scores,
    expected_squares,
    sample,
)
from evomerge.evaluation.tasks.documents import in_order
from evomerge.scores import Objective, Scores, fitness

A, B = Objective("a", "acc", 2.0), Objective("b", "loss", 1.0, higher_is_better=False)


def scores(a: Sequence[float], b: Sequence[float]) -> Scores:
    documents = {"a": tuple(range(len(a))), "b": tuple(range(100, 100 + len(b)))}
    means = {"a/acc": float(np.mean(a)), "b/loss": float(np.mean(b))}
    return Scores(documents, {"a/acc": tuple(a), "b/loss": tuple(b)}, means)


def drawn(seed: int) -> Scores:
    """Return random scores; documents of `a` differ between models in their first third only."""
    rng = np.random.default_rng(seed)
    fixed = np.arange(90) % 2
    a = np.where(np.arange(90) < 30, rng.random(90) < 0.5, fixed).astype(float)
    return scores(a.tolist(), rng.normal(2.0, 1.0, 60).tolist())


def part(whole: Scores, documents: dict[str, list[int]]) -> Scores:
    values = {}
    for key, task in (("a/acc", "a"), ("b/loss", "b")):
        known = dict(zip(whole.documents[task], whole.values[key], strict=True))
        values[key] = tuple(known[i] for i in documents[task])
    ids = {task: tuple(of) for task, of in documents.items()}
    return Scores(ids, values, {key: float(np.mean(v)) for key, v in values.items()})


def orders(scores: Scores, key: object) -> dict[str, list[int]]:
    return {task: in_order(len(ids), f"{key}/{task}") for task, ids in scores.documents.items()}


def test_all_documents_give_the_difference_itself_without_variance() -> None:
    incumbent, other = drawn(0), drawn(1)
    order = orders(incumbent, "k")
    squares = expected_squares([A, B], incumbent, [drawn(2)], order)
    mean, variance = estimate(differences([A, B], other, incumbent), order, squares)
    assert math.isclose(mean, fitness([A, B], other) - fitness([A, B], incumbent), abs_tol=1e-12)
    assert variance == 0.0


def test_samples_are_unbiased_and_their_variance_is_right() -> None:
    incumbent, other = drawn(0), drawn(1)
    truth = fitness([A, B], other) - fitness([A, B], incumbent)
    earlier = [drawn(seed) for seed in range(5, 15)]
    found, variances = [], []
    for key in range(400):
        order = orders(incumbent, key)
        squares = expected_squares([A, B], incumbent, earlier, order)
        got = part(other, sample(incumbent.documents, order, squares, 60))
        mean, variance = estimate(differences([A, B], got, incumbent), order, squares)
        found.append(mean)
        variances.append(variance)
    error = np.std(found) / math.sqrt(len(found))
    assert abs(np.mean(found) - truth) < 3.5 * error
    assert 0.6 < np.mean(variances) / np.var(found) < 1.8


def test_a_document_of_a_small_task_counts_more() -> None:
    """The fitness is a mean of the tasks' means: 60 documents count as much as 600."""
    a, b = Objective("a", "acc"), Objective("b", "loss")
    rng = np.random.default_rng(0)
    incumbent = scores([0.0] * 60, [0.0] * 600)
    other = scores(rng.normal(0.0, 1.0, 60).tolist(), rng.normal(0.0, 1.0, 600).tolist())
    truth = fitness([a, b], other)
    off: dict[str, list[float]] = {"allocated": [], "by size": []}
    for key in range(200):
        order = orders(incumbent, key)
        squares = expected_squares([a, b], incumbent, [other], order)
        allocated = sample(incumbent.documents, order, squares, 60)
        by_size = {
            task: [incumbent.documents[task][i] for i in own[: round(60 * len(own) / 660)]]
            for task, own in order.items()
        }
        for name, documents in (("allocated", allocated), ("by size", by_size)):
            got = part(other, {task: sorted(ids) for task, ids in documents.items()})
            seen = differences([a, b], got, incumbent)
            off[name].append(estimate(seen, order, squares)[0] - truth)
    assert np.std(off["allocated"]) < 0.67 * np.std(off["by size"])
    assert abs(len(allocated["a"]) - len(allocated["b"])) < 10


def test_a_task_of_more_weight_gets_more_documents() -> None:
    a, b = Objective("a", "acc", 3.0), Objective("b", "loss", 1.0)
    rng = np.random.default_rng(0)
    incumbent = scores([0.0] * 300, [0.0] * 900)
    earlier = [
        scores(rng.normal(0, 1, 300).tolist(), rng.normal(0, 1, 900).tolist()) for _ in range(20)
    ]
    order = orders(incumbent, "k")
    squares = expected_squares([a, b], incumbent, earlier, order)
    taken = sample(incumbent.documents, order, squares, 200)
    assert len(taken["a"]) == pytest.approx(150, abs=8)


def test_expected_scores_are_of_the_metrics_themselves() -> None:
    incumbent, other = drawn(0), drawn(1)
    order = orders(incumbent, "k")
    squares = expected_squares([A, B], incumbent, [], order)
    got = part(other, sample(incumbent.documents, order, squares, 100))
    found = expected_scores([A, B], got, incumbent, [], order)
    for key, truth in other.aggregates.items():
        assert found[key].error > 0
        assert abs(found[key].value - truth) < 4 * found[key].error


@settings(max_examples=draws(100), deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.floats(1e-5, 3.0)), min_size=1, max_size=6),
    st.data(),
)
def test_larger_samples_hold_the_smaller_ones(
    shapes: list[tuple[int, float]], data: st.DataObject
) -> None:
    sizes, weights = zip(*shapes, strict=True)
    small, large = sorted(data.draw(st.tuples(*[st.integers(0, sum(sizes))] * 2)))
    few, many = allocate(sizes, weights, small), allocate(sizes, weights, large)
    assert all(a <= b <= size for a, b, size in zip(few, many, sizes, strict=True))
    assert small <= sum(few) < small + len(sizes) or sum(few) == sum(sizes)
    assert sum(allocate(sizes, weights, sum(sizes))) == sum(sizes)


def test_equal_answers_so_far_are_no_proof() -> None:
    alike = scores([0.0] * 40, [0.0] * 40)
    order = orders(alike, "k")
    squares = expected_squares([A, B], alike, [alike], order)
    seen = differences([A, B], part(alike, {"a": [0], "b": [100]}), alike)
    mean, variance = estimate(seen, order, squares)
    assert mean == 0.0 and variance > 0.0
