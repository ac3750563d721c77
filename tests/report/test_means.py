"""95 % intervals have the true value in them about as often as they say; equal models are equal."""

from __future__ import annotations

from itertools import product
from math import prod

import numpy as np
import pytest
from scipy.stats import binom

from evomerge.report import means
from evomerge.report.confidence import compare, fitness_interval, interval
from evomerge.report.means import Sample
from evomerge.scores import Objective, Scores

SHARE = (0.0, 1.0)


def answers(right, of):
    return (1.0,) * right + (0.0,) * (of - right)


@pytest.mark.parametrize(
    ("documents", "p", "tasks"),
    [(20, 0.01, 2), (20, 0.99, 3), (20, 0.5, 2), (100, 0.99, 2), (100, 0.01, 3)],
)
def test_a_mean_of_tasks_has_intervals_that_cover(documents, p, tasks):
    """All outcomes of right and wrong answers, each with its probability; nothing is drawn."""
    objectives = [Objective(f"t{task}", "acc") for task in range(tasks)]
    likely = [k for k in range(documents + 1) if binom.pmf(k, documents, p) > 1e-4]
    known, covered, total = {}, 0.0, 0.0
    for counts in product(likely, repeat=tasks):
        if tuple(sorted(counts)) not in known:  # the order of the tasks does not matter
            values = {
                item.key: answers(k, documents) for item, k in zip(objectives, counts, strict=True)
            }
            found = fitness_interval(
                objectives,
                Scores({}, values, {key: float(np.mean(item)) for key, item in values.items()}),
            )
            known[tuple(sorted(counts))] = found.low <= p <= found.high
        probability = prod(binom.pmf(k, documents, p) for k in counts)
        total += probability
        covered += probability * known[tuple(sorted(counts))]
    assert covered / total > 0.935


def test_a_skewed_metric_has_intervals_that_cover():
    """Many documents with little overlap, few with much."""
    generator, covered, runs = np.random.default_rng(0), 0, 200
    for _ in range(runs):
        values = tuple(generator.beta(0.3, 3, 20))
        found = interval(values, float(np.mean(values)))
        covered += found.low <= 1 / 11 <= found.high
    assert covered >= 0.94 * runs


def often_0_or_1(generator, shape):
    """Values like F1 where most answers are wrong: 90 % are 0, 5 % are 1. The mean is 0.075."""
    kind = generator.random(shape)
    return np.where(kind < 0.9, 0.0, np.where(kind > 0.95, 1.0, generator.beta(2, 2, shape)))


@pytest.mark.parametrize("documents", [20, 100])
@pytest.mark.parametrize("tasks", [1, 3])
def test_a_metric_that_is_mostly_0_has_intervals_that_cover(tasks, documents):
    generator = np.random.default_rng(1)
    drawn = [often_0_or_1(generator, (800, documents)) / tasks for _ in range(tasks)]
    low, high = means.interval([Sample.of(values, (0.0, 1 / tasks)) for values in drawn])
    assert np.mean((low <= 0.075) & (high >= 0.075)) > 0.93


@pytest.mark.parametrize("documents", [20, 50])
@pytest.mark.parametrize("sigma", [0.5, 1.0])
def test_lengths_have_intervals_that_cover(sigma, documents):
    """Lognormal lengths; the second kind is very skewed, and Student's t covers 86 % of them."""
    values = np.exp(sigma * np.random.default_rng(1).normal(size=(1500, documents)))
    low, high = means.interval([Sample.of(values)])
    mean = np.exp(sigma**2 / 2)
    assert np.mean((low <= mean) & (mean <= high)) > 0.94


@pytest.mark.parametrize("documents", [20, 100, 200])
@pytest.mark.parametrize("share", [0.01, 0.05])
def test_rare_huge_lengths_have_intervals_that_cover_if_their_limit_is_known(share, documents):
    """With bounds that are guessed, as few as 19 % do: most samples have no huge length."""
    generator, limit = np.random.default_rng(1), 2048.0
    usual = generator.integers(80, 121, (800, documents))
    values = np.where(generator.random(usual.shape) < share, limit, usual)
    low, high = means.interval([Sample.of(values, (0.0, limit), is_share=False)])
    mean = share * limit + (1 - share) * 100
    assert np.mean(low > mean) < 0.036
    assert np.mean(high < mean) < 0.036


@pytest.mark.parametrize("tasks", [1, 3])
@pytest.mark.parametrize("documents", [20, 100])
@pytest.mark.parametrize("p", [0.02, 0.5])
def test_equal_models_rarely_seem_to_differ(p, documents, tasks):
    generator, samples = np.random.default_rng(2), []
    for _ in range(tasks):
        one, other = generator.random((2, 1500, documents)) < p
        share = [np.mean(1.0 * one - other == value, axis=-1) for value in (-1.0, 0.0, 1.0)]
        shares = np.stack(share, axis=-1)
        ends = np.array(-1.0), np.array(1.0)
        samples.append(Sample(np.array([-1.0, 0.0, 1.0]), shares, documents, *ends))
    sure = means.confidence(samples)
    assert np.mean(sure > 0.975) < 0.036
    assert np.mean(sure < 0.025) < 0.036


@pytest.mark.parametrize(
    ("bounds", "is_share"),
    [((-1.0, 1.0), True), ((-1.0, 1.0), False), ((-9.0, 9.0), False), ((-np.inf, np.inf), True)],
)
def test_a_bound_of_the_interval_is_the_threshold_with_its_confidence(bounds, is_share):
    """So a comparison is better with probability > 0.975 where its interval is above 0."""
    generator = np.random.default_rng(3)
    drawn = [generator.uniform(-1, 1, (30, n)) for n in (7, 25)]
    samples = [Sample.of(values, bounds, is_share=is_share) for values in drawn]
    low, high = means.interval(samples)
    assert means.confidence(samples, low) == pytest.approx(0.975)
    assert means.confidence(samples, high) == pytest.approx(0.025)
    assert np.all(means.confidence(samples, (low + high) / 2) > 0.025)


def test_many_samples_at_once_have_the_intervals_of_each_alone():
    generator = np.random.default_rng(4)
    first, second = generator.random((5, 30)), generator.exponential(size=(5, 40))
    low, high = means.interval([Sample.of(first, SHARE), Sample.of(second)])
    for row in range(5):
        alone = means.interval([Sample.of(first[row], SHARE), Sample.of(second[row])])
        assert (low[row], high[row]) == pytest.approx(alone)


def test_what_is_the_same_on_all_documents_has_no_spread_where_it_can_be_anything():
    same = Sample.of([3.0] * 5)
    assert means.interval([same]) == (3.0, 3.0)
    assert [float(means.confidence([same], at)) for at in (2.0, 3.0, 4.0)] == [1.0, 0.5, 0.0]


def test_what_has_no_error_moves_an_interval_and_does_not_widen_it():
    right = Sample.of(answers(12, 20), SHARE)
    low, high = means.interval([right])
    moved = means.interval([right, Sample.of([2.0, 2.0], (2.0, 2.0))])
    assert moved == pytest.approx((low + 2, high + 2))


def test_equal_answers_on_few_documents_do_not_show_that_models_are_equal():
    """A bootstrap would resample zeros only, and be sure."""
    same = Scores({"t": tuple(range(20))}, {"t/acc": answers(10, 20)}, {"t/acc": 0.5})
    found = compare([Objective("t", "acc")], same, same)
    assert found is not None
    assert found.difference.low < -0.1 and found.difference.high > 0.1
    assert found.probability_above(-0.01) < 0.9
