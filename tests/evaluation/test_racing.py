"""Racing stops candidates that are behind, and no others; its samples and estimates are right."""

import random
from itertools import pairwise

import numpy as np
import pytest
from draws import draws
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.evaluation.evaluator import Evaluator
from evomerge.evaluation.racing import Race, chance, expected_scores, score_in_race
from evomerge.evaluation.tasks.functions import ObjectiveFunction
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


def raced(evaluator, model, incumbent, known=3, **options):
    objective = options.pop("objective", ACC)
    race = Race(**options)
    return score_in_race(race, evaluator, model, "search", incumbent, known, [objective])


def test_the_better_is_scored_on_everything_and_the_worse_is_not(evaluator):
    incumbent = of_task(answering(0.6, 0))
    better = raced(evaluator, answering(0.8, 1), incumbent)
    worse = raced(evaluator, answering(0.3, 2), incumbent)
    assert better.fidelity == {"t": COUNT} and not better.expected
    answers = evaluator.answer(answering(0.8, 1))
    assert better == answers.scores(evaluator.default, better.seconds["evaluate"])
    assert worse.fidelity["t"] == 50
    truth, found = sum(answering(0.3, 2)) / COUNT, worse.expected["t/acc"]
    assert fitness([ACC], worse) == found.value == pytest.approx(truth, abs=3 * found.error)
    assert fitness_error([ACC], worse) == found.error > 0
    loss = Objective("t", "acc", higher_is_better=False)
    assert raced(evaluator, answering(0.9, 1), incumbent, objective=loss).fidelity["t"] < COUNT
    assert raced(evaluator, answering(0.3, 1), incumbent, objective=loss).fidelity["t"] == COUNT


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_better_candidates_are_rarely_stopped_and_standard_errors_are_right(evaluator, confidence):
    values = answering(0.6, 0)
    incumbent, stopped, scaled = of_task(values), list[bool](), list[float]()
    for seed in range(150):
        model = answering(0.6 if seed % 2 else 0.5, seed + 10)
        got = raced(evaluator, model, incumbent, seed=seed, confidence=confidence)
        if got.expected:
            if chance([ACC], got, incumbent) < 1 - confidence:
                stopped.append(sum(model) > sum(values))
            found = got.expected["t/acc"]
            scaled.append((found.value - sum(model) / COUNT) / found.error)
    assert len(stopped) > 20 and sum(stopped) <= (1 - confidence) * len(stopped)
    # a candidate is stopped when its estimate is low, so the estimates are a little too low
    assert -1.0 < sum(scaled) / len(scaled) < 0.1
    assert max(map(abs, scaled)) < 4


@pytest.mark.parametrize(
    ("total", "minimum", "sizes"),
    [
        (200, 25, [25, 50, 200]),
        (400, 25, [50, 100, 400]),
        (100, 25, [25, 50, 100]),
        (99, 25, [25, 99]),
        (60, 48, [48, 60]),
        (25, 25, [25]),
    ],
)
def test_samples_are_few_and_large_enough(total, minimum, sizes):
    assert Race(minimum=minimum).sizes(total) == sizes


def drawn(seed):
    """Return random scores; documents of `a` differ between models in their first third only."""
    rng = np.random.default_rng(seed)
    fixed = np.arange(90) % 2
    a = np.where(np.arange(90) < 30, rng.random(90) < 0.5, fixed).astype(float)
    return scores_of({"a/acc": a.tolist(), "b/loss": rng.normal(2.0, 1.0, 60).tolist()})


def test_estimates_are_unbiased_and_their_errors_are_right():
    incumbent, other = drawn(0), drawn(1)
    found, errors = [], []
    for key in range(400):
        ids = Race(minimum=60, seed=key).samples(incumbent.documents, 0)[0]
        got = expected_scores([A, B], part(other, ids), incumbent)
        found.append([got[item.key].value for item in (A, B)])
        errors.append([got[item.key].error for item in (A, B)])
    truth = [other.aggregates[item.key] for item in (A, B)]
    error = np.std(found, axis=0)
    assert (abs(np.mean(found, axis=0) - truth) < 3.5 * error / 400**0.5).all()
    assert (np.mean(errors, axis=0) / error > 0.8).all()
    assert (np.mean(errors, axis=0) / error < 1.35).all()
    everything = expected_scores([A, B], other, incumbent)
    assert [everything[item.key].value for item in (A, B)] == pytest.approx(truth, abs=1e-12)
    assert [everything[item.key].error for item in (A, B)] == pytest.approx([0, 0], abs=1e-8)


@settings(max_examples=draws(100), deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(2, 60), st.integers(0, 50))
def test_larger_samples_hold_the_smaller_ones(counts, minimum, known):
    documents = {str(number): range(count) for number, count in enumerate(counts)}
    race = Race(minimum=minimum)
    samples, sizes = race.samples(documents, known), race.sizes(sum(counts))
    for few, many in pairwise(samples):
        assert all(set(few[task]) <= set(many[task]) for task in few)
    assert samples[-1] == {task: list(ids) for task, ids in documents.items()}
    for size, ids in zip(sizes, samples, strict=True):
        assert size <= sum(map(len, ids.values())) <= size + len(counts) - 1


def test_equal_answers_so_far_are_no_proof():
    incumbent = scores_of({"a/acc": [0.0, 1.0] * 20, "b/loss": [0.0, 1.0] * 20})
    seen = part(incumbent, {"a": [0, 1], "b": [10, 11]})
    expected = expected_scores([A, B], seen, incumbent)
    assert all(item.error > 0.1 for item in expected.values())
    seen = Scores(seen.documents, seen.values, seen.aggregates, expected=expected)
    assert chance([A, B], seen, incumbent) == pytest.approx(0.5)


def test_a_generation_has_one_sample_and_the_next_one_another():
    """With one order for the whole search, candidates far behind seemed 6 points better."""
    documents = {"t": range(COUNT)}

    def first(known, seed=0):
        return Race(seed=seed).samples(documents, known)[0]

    assert first(12) == first(12) != first(24)
    assert first(12, seed=1) != first(12)
