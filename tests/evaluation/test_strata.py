"""Stratified samples: nested, allocated by weight, with unbiased estimates."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from draws import draws
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.evaluation.strata import (
    Stratum,
    allocate,
    differences,
    estimate,
    expected_scores,
    expected_squares,
    sample,
    stratify,
)
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


def test_all_documents_give_the_difference_itself_without_variance() -> None:
    incumbent, other = drawn(0), drawn(1)
    strata = stratify(expected_squares([A, B], incumbent, [drawn(2)]), incumbent.documents, "k", 4)
    mean, variance = estimate(strata, differences([A, B], other, incumbent))
    assert math.isclose(mean, fitness([A, B], other) - fitness([A, B], incumbent), abs_tol=1e-12)
    assert variance == 0.0


def test_samples_are_unbiased_and_their_variance_is_right() -> None:
    incumbent, other = drawn(0), drawn(1)
    truth = fitness([A, B], other) - fitness([A, B], incumbent)
    expected = expected_squares([A, B], incumbent, [drawn(seed) for seed in range(5, 15)])
    found, plain, variances = [], [], []
    for key in range(400):
        strata = stratify(expected, incumbent.documents, str(key), 4)
        got = part(other, sample(strata, incumbent.documents, 60))
        mean, variance = estimate(strata, differences([A, B], got, incumbent))
        found.append(mean)
        variances.append(variance)
        one = stratify(
            {t: np.ones_like(v) for t, v in expected.items()}, incumbent.documents, str(key), 1
        )
        got = part(other, sample(one, incumbent.documents, 60))
        plain.append(estimate(one, differences([A, B], got, incumbent))[0])
    error = np.std(found) / math.sqrt(len(found))
    assert abs(np.mean(found) - truth) < 3.5 * error
    assert 0.6 < np.mean(variances) / np.var(found) < 1.8
    assert np.var(found) < 0.8 * np.var(plain)


def test_fewer_documents_are_taken_where_models_agree() -> None:
    incumbent = drawn(0)
    expected = expected_squares([A], incumbent, [drawn(seed) for seed in range(1, 20)])
    strata = stratify(expected, incumbent.documents, "k", 4)
    asked = sample(strata, incumbent.documents, 30)
    assert sum(i < 30 for i in asked["a"]) > 18


def test_a_document_of_a_small_task_counts_more() -> None:
    """The fitness is a mean of the tasks' means: 60 documents count as much as 600."""
    a, b = Objective("a", "acc"), Objective("b", "loss")
    rng = np.random.default_rng(0)
    incumbent = scores([0.0] * 60, [0.0] * 600)
    other = scores(rng.normal(0.0, 1.0, 60).tolist(), rng.normal(0.0, 1.0, 600).tolist())
    truth = fitness([a, b], other)
    squares = expected_squares([a, b], incumbent, [other])
    off: dict[str, list[float]] = {"allocated": [], "by size": []}
    for key in range(200):
        strata = stratify(squares, incumbent.documents, str(key), 1)
        allocated = sample(strata, incumbent.documents, 60)
        by_size = {
            stratum.task: [
                incumbent.documents[stratum.task][i]
                for i in stratum.indices[: round(60 * len(stratum.indices) / 660)]
            ]
            for stratum in strata
        }
        for name, documents in (("allocated", allocated), ("by size", by_size)):
            got = part(other, {task: sorted(ids) for task, ids in documents.items()})
            seen = differences([a, b], got, incumbent)
            off[name].append(estimate(strata, seen)[0] - truth)
    assert np.std(off["allocated"]) < 0.67 * np.std(off["by size"])
    assert abs(len(allocated["a"]) - len(allocated["b"])) < 10


def test_a_task_of_more_weight_gets_more_documents() -> None:
    a, b = Objective("a", "acc", 3.0), Objective("b", "loss", 1.0)
    rng = np.random.default_rng(0)
    incumbent = scores([0.0] * 300, [0.0] * 900)
    earlier = [
        scores(rng.normal(0, 1, 300).tolist(), rng.normal(0, 1, 900).tolist()) for _ in range(20)
    ]
    strata = stratify(expected_squares([a, b], incumbent, earlier), incumbent.documents, "k", 4)
    taken = sample(strata, incumbent.documents, 200)
    assert len(taken["a"]) == pytest.approx(150, abs=8)


def test_expected_scores_are_of_the_metrics_themselves() -> None:
    incumbent, other = drawn(0), drawn(1)
    strata = stratify(expected_squares([A, B], incumbent, []), incumbent.documents, "k", 2)
    got = part(other, sample(strata, incumbent.documents, 100))
    found = expected_scores(strata, [A, B], got, incumbent, [])
    for key, truth in other.aggregates.items():
        assert found[key].error > 0
        assert abs(found[key].value - truth) < 4 * found[key].error


@settings(max_examples=draws(100), deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.floats(1e-9, 10.0)), min_size=1, max_size=6),
    st.data(),
)
def test_larger_samples_hold_the_smaller_ones(
    shapes: list[tuple[int, float]], data: st.DataObject
) -> None:
    strata = [Stratum("t", np.arange(size), square, 1.0) for size, square in shapes]
    total = sum(size for size, _ in shapes)
    small, large = sorted(data.draw(st.tuples(*[st.integers(0, total)] * 2)))
    few, many = allocate(strata, small), allocate(strata, large)
    assert all(a <= b <= len(s.indices) for a, b, s in zip(few, many, strata, strict=True))
    assert small <= sum(few) < small + len(strata) or sum(few) == total
    assert sum(allocate(strata, total)) == total


def test_nothing_known_leaves_a_plain_sample() -> None:
    alike = scores([0.0] * 40, [0.0] * 40)
    expected = expected_squares([A, B], alike, [alike])
    strata = stratify(expected, alike.documents, "k", 4)
    assert sorted(i for s in strata if s.task == "a" for i in s.indices) == list(range(40))
    mean, variance = estimate(
        strata, differences([A, B], part(alike, {"a": [0], "b": [100]}), alike)
    )
    assert mean == 0.0 and variance > 0.0
