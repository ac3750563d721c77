"""95 % intervals have the true value in them about as often as they say; equal models are equal."""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from math import prod

import numpy as np
import pytest
from scipy.stats import binom, multinomial, t

from evomerge.report.confidence import compare, fitness_interval, interval
from evomerge.report.means import Mean, confidence, exact, mean_of
from evomerge.report.means import interval as interval_of
from evomerge.scores import Objective, Scores


def answers(right, of):
    return (1.0,) * right + (0.0,) * (of - right)


@lru_cache(None)
def gained(ours, theirs, of) -> Mean:
    """The mean difference of two models, of which each alone has so many documents right."""
    values = np.array((1.0,) * ours + (-1.0,) * theirs + (0.0,) * (of - ours - theirs))
    found = mean_of(values, 1.0, is_share=True, is_difference=True)
    assert found is not None
    return found


@lru_cache(None)
def judged(*pairs):
    """Interval of the mean over tasks of differences (gained, lost, documents), and how sure."""
    means = [gained(*pair) for pair in pairs]
    return interval_of(means), confidence(means)


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
    assert covered / total > 0.91  # as Wilson's of one task, which is 0.90 to 0.98


@pytest.mark.parametrize("tasks", [1, 3])
@pytest.mark.parametrize("documents", [20, 50, 200])
@pytest.mark.parametrize(
    ("better", "worse"), [(0.08, 0.04), (0.2, 0.1), (0.01, 0.01), (0.1, 0.1), (0.35, 0.05)]
)
def test_differences_of_right_and_wrong_have_intervals_that_cover(better, worse, documents, tasks):
    generator, runs = np.random.default_rng(2), 1500
    counts = generator.multinomial(
        documents, [better, worse, 1 - better - worse], size=(runs, tasks)
    )
    found = [judged(*((int(b), int(w), documents) for b, w, _ in run)) for run in counts]
    true = tasks * (better - worse)
    assert np.mean([low <= true <= high for (low, high), _ in found]) > 0.93
    assert all((low > 0) == (sure > 0.975) for (low, _), sure in found)
    assert all((high < 0) == (sure < 0.025) for (_, high), sure in found)
    if better == worse:
        assert np.mean([sure > 0.98 for _, sure in found]) < 0.03  # the level of a first winner


@pytest.mark.parametrize("documents", [50, 100])
@pytest.mark.parametrize("level", [0.02, 0.0025])
def test_equal_models_are_better_as_rarely_as_a_verdict_says(documents, level):
    """All outcomes, whatever share of the answers differs; nothing is drawn."""
    places = np.arange(documents + 1)
    outcomes = [(b, c) for b in places for c in places[: documents + 1 - b] if b > c]
    found = [(b, c) for b, c in outcomes if 1 - judged((b, c, documents))[1] <= level]
    counts = np.array([(b, c, documents - b - c) for b, c in found])
    for share in (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8):
        likely = multinomial.pmf(counts, documents, [share / 2, share / 2, 1 - share])
        assert likely.sum() < 1.01 * level + 0.001


@pytest.mark.parametrize("documents", [50, 200])
@pytest.mark.parametrize("kind", ["F1", "lengths"])
def test_other_values_have_intervals_that_cover(kind, documents):
    """F1: 45 % are 0 and 25 % are 1; lognormal lengths."""
    generator = np.random.default_rng(1)
    shape, covered = (1000, documents), 0
    draws, true = np.exp(0.5 * generator.normal(size=shape)), np.exp(0.125)
    if kind == "F1":
        level = generator.random(shape)
        middle = np.where(level > 0.75, 1.0, generator.beta(2, 2, shape))
        draws, true = np.where(level < 0.45, 0.0, middle), 0.25 + 0.3 / 2
    for values in draws:
        found = interval(values, float(values.mean()))
        covered += found.low <= true <= found.high
    assert covered > 930


@pytest.mark.parametrize(("of_a", "of_b"), [(30, 50), (12, 12)])
def test_equal_graded_models_rarely_seem_to_differ(of_a, of_b):
    generator, runs = np.random.default_rng(3), 1000
    sure = []
    for _ in range(runs):
        means = [
            mean_of(generator.normal(size=n), u, is_share=False, is_difference=True)
            for n, u in ((of_a, 0.5), (of_b, 0.5))
        ]
        sure.append(confidence([item for item in means if item]))
    assert np.mean(np.array(sure) > 0.975) < 0.04 > np.mean(np.array(sure) < 0.025)


def test_the_interval_of_agresti_and_min():
    """Agresti and Min 2005: (c - b) / (n + 2) and its error, with half a document added to each."""
    low, high = gained(12, 4, 100).bounds(0.95)
    centre = (12.5 - 4.5) / 102
    half = t.ppf(0.975, 100) * ((12.5 + 4.5) - 8.0**2 / 102) ** 0.5 / 102
    assert (low, high) == pytest.approx((centre - half, centre + half), abs=1e-7)
    assert gained(20, 0, 20).bounds(0.95)[1] == 1.0


def test_what_has_no_error_moves_an_interval_and_does_not_widen_it():
    low, high = gained(12, 4, 20).bounds(0.95)
    moved = interval_of([gained(12, 4, 20), exact(2.0)])
    assert moved == pytest.approx((low + 2, high + 2))


def test_equal_answers_on_few_documents_do_not_show_that_models_are_equal():
    """A bootstrap would resample zeros only, and be sure."""
    same = Scores({"t": tuple(range(20))}, {"t/acc": answers(10, 20)}, {"t/acc": 0.5})
    found = compare([Objective("t", "acc")], same, same)
    assert found is not None and found.probability == 0.5
    assert found.difference.low < -0.08 and found.difference.high > 0.08
