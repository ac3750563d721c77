"""Racing stops candidates that are behind, and no others; its samples and estimates are right."""

import itertools
import math
import random

import numpy as np
import pytest
from draws import draws
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.errors import ConfigError
from evomerge.evaluation.evaluator import Evaluator
from evomerge.evaluation.racing import (
    Race,
    chance,
    check_means,
    differences,
    estimate,
    expected_scores,
    expected_squares,
    sample,
    score_in_race,
)
from evomerge.evaluation.tasks.documents import in_order
from evomerge.evaluation.tasks.functions import ObjectiveFunction
from evomerge.evaluation.tasks.harness import Harness
from evomerge.evaluation.tasks.info import MetricInfo, TaskInfo
from evomerge.scores import Objective, Scores, fitness, fitness_error

ACC = Objective("t", "acc")
A, B = Objective("a", "acc", 2.0), Objective("b", "loss", 1.0, higher_is_better=False)
COUNT = 400


def scores_of(columns, ids=None):
    """Return scores by `task/metric`, of documents 0, 1, ... or of some."""
    every = {key.partition("/")[0]: tuple(range(len(column))) for key, column in columns.items()}
    means = {key: float(np.mean(column)) for key, column in columns.items()}
    return Scores(ids or every, {key: tuple(column) for key, column in columns.items()}, means)


def part(whole, ids):
    """Return the scores of some documents."""
    named = ((key, ids[key.partition("/")[0]]) for key in whole.values)
    columns = {key: [whole.values[key][i] for i in own] for key, own in named}
    return scores_of(columns, {task: tuple(of) for task, of in ids.items()})


def orders(scores, key):
    return {task: in_order(len(ids), f"{key}/{task}") for task, ids in scores.documents.items()}


def answering(skill, seed):
    """Return which documents a model of this skill answers correctly; difficulties differ."""
    hardness, luck = random.Random("hardness"), random.Random(seed)
    odds = [min(1, max(0, skill + hardness.uniform(-0.4, 0.4))) for _ in range(COUNT)]
    return [float(luck.random() < chance) for chance in odds]


def of_task(values):
    return scores_of({"t/acc": values})


@pytest.fixture(scope="module")
def evaluator():
    """An evaluator of models that are lists of values."""
    info = TaskInfo("t", "function", COUNT, {"acc": MetricInfo(True, True)})
    body = lambda model, tokenizer, ids: {"acc": [model[i] for i in ids]}  # noqa: E731
    evaluator = Evaluator([ObjectiveFunction(body, info)])
    evaluator.prepare(None, None, {"search": {"t": range(COUNT)}})
    return evaluator


def raced(evaluator, model, incumbent, earlier=(), **options):
    objective = options.pop("objective", ACC)
    race = Race(**options)
    return score_in_race(race, evaluator, model, "search", incumbent, earlier, [objective])


def test_the_better_is_scored_on_everything_and_the_worse_is_not(evaluator):
    incumbent = of_task(answering(0.6, 0))
    better = raced(evaluator, answering(0.8, 1), incumbent)
    worse = raced(evaluator, answering(0.3, 2), incumbent)
    assert better.fidelity == {"t": COUNT} and not better.expected
    answers = evaluator.answer(answering(0.8, 1))
    assert better == answers.scores(evaluator.default, better.seconds["evaluate"])
    assert 50 <= worse.fidelity["t"] < 150
    truth, found = sum(answering(0.3, 2)) / COUNT, worse.expected["t/acc"]
    assert fitness([ACC], worse) == found.value == pytest.approx(truth, abs=3 * found.error)
    assert fitness_error([ACC], worse) == found.error > 0
    loss = Objective("t", "acc", higher_is_better=False)
    assert raced(evaluator, answering(0.9, 1), incumbent, objective=loss).fidelity["t"] < COUNT
    assert raced(evaluator, answering(0.3, 1), incumbent, objective=loss).fidelity["t"] == COUNT


def test_better_candidates_are_rarely_stopped_and_standard_errors_are_right(evaluator):
    values = answering(0.6, 0)
    incumbent = of_task(values)
    earlier = [of_task(answering(0.55, seed)) for seed in range(500, 510)]
    stopped_ahead, scaled = 0, []
    for seed in range(150):
        model = answering(0.6 if seed % 2 else 0.52, seed + 10)
        got = raced(evaluator, model, incumbent, earlier, seed=seed)
        if got.expected:
            stopped_ahead += sum(model) > sum(values)
            found = got.expected["t/acc"]
            scaled.append((found.value - sum(model) / COUNT) / found.error)
    assert stopped_ahead <= 3  # 2 % of 150
    # a candidate is stopped when its estimate is low, so the estimates are a little too low
    assert len(scaled) > 10 and -1.0 < sum(scaled) / len(scaled) < 0.1
    assert max(map(abs, scaled)) < 4


def test_a_metric_that_is_no_mean_is_refused(tasks):
    info = Harness(["t_letter"], [tasks]).info
    check_means([Objective("t_letter", "acc")], info)
    with pytest.raises(ConfigError, match=r"evaluation\.racing.*not a mean"):
        check_means([Objective("t_letter", "f1")], info)


@given(st.integers(2, 400), st.integers(1, 5000))
def test_samples_grow_by_equal_parts_of_at_least_the_minimum(minimum, total):
    sizes = Race(minimum=minimum).sizes(total)
    assert sizes[-1] == total
    added = [after - before for before, after in itertools.pairwise([0, *sizes])]
    assert min(added) >= min(minimum, total)
    part = total / max(1, total // minimum)
    assert sizes == [math.ceil(part * round(size / part) - 1e-6) for size in sizes]
    for before, after in itertools.pairwise(sizes[:-1]):
        assert after - before <= 0.4 * before + part + 1
    assert Race().sizes(400) == [50, 100, 150, 250, 350, 400]


def drawn(seed):
    """Return random scores; documents of `a` differ between models in their first third only."""
    rng = np.random.default_rng(seed)
    fixed = np.arange(90) % 2
    a = np.where(np.arange(90) < 30, rng.random(90) < 0.5, fixed).astype(float)
    return scores_of({"a/acc": a.tolist(), "b/loss": rng.normal(2.0, 1.0, 60).tolist()})


def test_samples_are_unbiased_and_their_variance_is_right():
    incumbent, other = drawn(0), drawn(1)
    truth = fitness([A, B], other) - fitness([A, B], incumbent)
    earlier = [drawn(seed) for seed in range(5, 15)]
    found, variances = [], []
    for key in range(400):
        order = orders(incumbent, key)
        squares = expected_squares([A, B], incumbent, earlier)
        got = part(other, sample(incumbent.documents, order, 60))
        mean, variance = estimate(differences([A, B], got, incumbent), order, squares)
        found.append(mean)
        variances.append(variance)
    error = np.std(found) / math.sqrt(len(found))
    assert abs(np.mean(found) - truth) < 3.5 * error
    assert 0.6 < np.mean(variances) / np.var(found) < 1.8
    mean, variance = estimate(differences([A, B], other, incumbent), order, squares)
    assert (mean, variance) == (pytest.approx(truth, abs=1e-12), 0.0), "all documents"
    of_each = expected_scores([A, B], got, incumbent, [], order)
    for key, value in other.aggregates.items():
        assert abs(of_each[key].value - value) < 4 * of_each[key].error


@settings(max_examples=draws(100), deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.data())
def test_larger_samples_hold_the_smaller_ones(sizes, data):
    small, large = sorted(data.draw(st.tuples(*[st.integers(0, sum(sizes))] * 2)))
    documents = {str(number): range(size) for number, size in enumerate(sizes)}
    order = {task: in_order(len(ids), task) for task, ids in documents.items()}
    few, many, every = (sample(documents, order, count) for count in (small, large, sum(sizes)))
    assert all(set(few[task]) <= set(many[task]) <= set(every[task]) for task in few)
    assert every == {task: list(ids) for task, ids in documents.items()}
    assert small <= sum(map(len, few.values())) <= small + len(sizes) - 1


def test_equal_answers_so_far_are_no_proof():
    alike = scores_of({"a/acc": [0.0] * 40, "b/loss": [0.0] * 40})
    order = orders(alike, "k")
    squares = expected_squares([A, B], alike, [alike])
    seen = differences([A, B], part(alike, {"a": [0], "b": [10]}), alike)
    assert chance(*estimate(seen, order, squares)) == chance(0.0, 0.0) == 0.5


def test_a_generation_has_one_sample_and_the_next_one_another():
    """With one order for the whole search, candidates far behind seemed 6 points better."""
    rows = [of_task(answering(0.5, seed)) for seed in range(24)]

    def first(earlier, seed=0):
        return Race(seed=seed).orders(rows[0], earlier, [ACC])

    assert first(rows[:12]) == first(rows[:12]) != first(rows)
    assert first(rows, seed=1) != first(rows)
