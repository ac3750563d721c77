"""Intervals against published figures and theory; the bounds of unknown intervals are nan."""

import math
import subprocess
import sys

import numpy as np
import pytest

from evomerge.report.confidence import (
    Interval,
    compare,
    factor_of,
    fitness_interval,
    interval,
    intervals,
    mean_over_runs,
)
from evomerge.scores import Objective, Scores

ACC = Objective("t", "acc")


def scores(documents=None, **values):
    """Scores whose aggregates are means; `t_acc` is the metric acc of task t."""
    named = {key.replace("_", "/"): tuple(map(float, items)) for key, items in values.items()}
    sizes = {key.split("/")[0]: len(items) for key, items in named.items()}
    asked = documents or {task: tuple(range(size)) for task, size in sizes.items()}
    return Scores(asked, named, {key: float(np.mean(items)) for key, items in named.items()})


def answers(right, of):
    return [1.0] * right + [0.0] * (of - right)


@pytest.mark.parametrize(
    ("right", "of", "low", "high"),
    [
        # Newcombe, Two-sided confidence intervals for the single proportion, 1998, table I.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        # docs/results.md: 83.0 [80.9, 84.9] of 1,400 test documents.
        (1162, 1400, 0.809, 0.849),
    ],
)
def test_right_or_wrong_gets_wilsons_interval(right, of, low, high):
    found = interval(answers(right, of), right / of)
    assert found.low == pytest.approx(low, abs=6e-4)
    assert found.high == pytest.approx(high, abs=6e-4)
    assert 0.0 <= found.low <= found.value <= found.high <= 1.0


def test_a_mean_over_runs_is_no_surer_than_its_documents():
    one, other = Interval(0.117, 0.08, 0.16), Interval(0.117, 0.09, 0.15)
    found = mean_over_runs([one, other])
    assert (found.low, found.high) == pytest.approx((0.085, 0.155))
    assert mean_over_runs([one]) == one
    assert not mean_over_runs([one, Interval(0.2)]).has_interval
    # Student's t of two degrees of freedom: 4.3027 * 0.1 / sqrt(3) = 0.24841.
    values = [Interval(v, v - 0.1, v + 0.2) for v in (0.4, 0.5, 0.6)]
    found = mean_over_runs(values, 0.0, 0.75)
    assert found.low == pytest.approx(0.5 - math.hypot(0.24841, 0.1), abs=1e-5)
    assert found.high == 0.75


@pytest.mark.parametrize("runs", [2, 5])
@pytest.mark.parametrize("spread", [0.0, 0.02, 0.1])
@pytest.mark.parametrize("same", [True, False])
def test_the_mean_over_all_seeds_lies_in_95_of_100_intervals(runs, spread, same):
    """100 documents, which all seeds share or none; the seeds' true scores spread round 0.7.

    Wilson's interval alone covers 0.7 in 93.7 of 100 cases: answers come in whole numbers.
    """
    draws, times = np.random.default_rng(runs), 1000
    wilson = [interval(answers(right, 100), right / 100) for right in range(101)]
    true = 0.7 + spread * draws.normal(size=(times, runs, 1))
    levels = draws.uniform(size=(times, 1 if same else runs, 100))
    counts = (levels < true).sum(-1)
    found = [mean_over_runs([wilson[right] for right in row], 0.0, 1.0) for row in counts]
    assert np.mean([item.low <= 0.7 <= item.high for item in found]) > 0.93


def test_the_interval_of_many_values_is_that_of_the_normal_distribution():
    values = np.random.default_rng(1).normal(3.0, 2.0, 1500)
    found = interval(tuple(values), float(values.mean()))
    error = 1.959964 * values.std() / math.sqrt(len(values))
    assert found.low == pytest.approx(values.mean() - error, abs=0.03 * error)
    assert found.high == pytest.approx(values.mean() + error, abs=0.03 * error)


@pytest.mark.parametrize(
    ("values", "aggregate"),
    [
        ((), 0.4),  # the average of a group
        ((1.0, 0.0), 0.7),  # an F1 over all documents
        ((0.3,), 0.3),  # one value says nothing about the spread
        ((math.nan, 1.0), math.nan),
        ((math.inf, 1.0), math.inf),
    ],
)
def test_unknown_intervals_are_nan(values, aggregate):
    found = interval(values, aggregate)
    assert not found.has_interval
    assert found.texts(100)[1] == ""
    assert found.value == aggregate or math.isnan(found.value)


def test_the_same_scores_get_the_same_figures_in_every_process():
    code = (
        "from evomerge.report.confidence import interval;"
        "values = [i % 7 / 7 for i in range(300)];"
        "print(interval(values, sum(values) / 300))"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
        ).stdout
        for seed in ("1", "2")
    ]
    values = [i % 7 / 7 for i in range(300)]
    assert runs == [f"{interval(values, sum(values) / 300)}\n"] * 2


def test_a_comparison_is_paired():
    """Models whose intervals overlap can be told apart if they differ on a few documents only."""
    ours, theirs = answers(60, 100), answers(52, 100)
    together = compare([ACC], scores(t_acc=ours), scores(t_acc=theirs))
    apart = compare([ACC], scores(t_acc=ours), scores(t_acc=theirs[::-1]))
    assert together is not None and apart is not None
    assert together.difference.value == apart.difference.value == pytest.approx(0.08)
    assert together.difference.low > 0 > apart.difference.low
    assert together.probability > 0.99 > apart.probability > 0.5
    back = compare([ACC], scores(t_acc=theirs), scores(t_acc=ours))
    assert back is not None
    assert back.probability == pytest.approx(1 - together.probability)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, 3.0)])
def test_equal_models_are_better_with_probability_one_half(weights):
    objectives = [Objective("t", "acc", weights[0]), Objective("u", "acc", weights[1])]
    generator = np.random.default_rng(3)
    same = scores(t_acc=generator.random(30), u_acc=answers(9, 20))
    found = compare(objectives, same, same)
    assert found is not None
    assert found.probability == 0.5
    assert found.difference.high == pytest.approx(-found.difference.low, rel=1e-6)
    assert found.difference.high > 0.01


def test_differences_of_tasks_that_only_rounding_tells_from_zero_are_zero():
    """Sums of thirds are not exactly 0.0 in every order."""
    objectives = [Objective("t", "acc", 1.0), Objective("u", "acc", 2.0)]
    ours = scores(t_acc=[1, 0, 1, 0, 1, 0], u_acc=[1.0] * 4)
    theirs = scores(t_acc=[0, 1, 0, 1, 0, 1], u_acc=[1.0] * 4)
    found = compare(objectives, ours, theirs)
    back = compare(objectives, theirs, ours)
    assert found is not None and back is not None
    assert found.probability + back.probability == pytest.approx(1.0)
    assert found.probability == pytest.approx(0.5)


def test_what_cannot_be_compared_is_none():
    ours = scores(t_acc=answers(3, 6))
    assert compare([ACC], ours, scores({"t": (1, 2, 3, 4, 5, 6)}, t_acc=answers(3, 6))) is None
    assert compare([ACC], scores(t_acc=[2.0]), scores(t_acc=[0.0])) is None
    group = Scores({"t": (0, 1)}, {}, {"group/acc": 0.5})
    assert compare([Objective("group", "acc")], group, group) is None


def test_metrics_of_one_task_are_added_up_by_document():
    """Two metrics that move against each other have a sum with little spread."""
    up = np.random.default_rng(4).random(50)
    both = [Objective("t", "up"), Objective("t", "down")]
    against = fitness_interval(both, scores(t_up=up, t_down=1 - up))
    along = fitness_interval(both, scores(t_up=up, t_down=up))
    alone = fitness_interval(both[:1], scores(t_up=up))
    assert against.high - against.low < 0.5 * (along.high - along.low)
    assert along.high - along.low == pytest.approx(alone.high - alone.low)


def test_the_interval_of_a_fitness_over_tasks_adds_the_tasks_spreads():
    generator = np.random.default_rng(5)
    first, second = generator.normal(size=400), generator.normal(size=900)
    objectives = [Objective("t", "m", 1.0), Objective("u", "m", 3.0, higher_is_better=False)]
    found = fitness_interval(objectives, scores(t_m=first, u_m=second))
    error = 1.959964 * math.hypot(first.std() / 20 / 4, second.std() / 30 * 3 / 4)
    assert found.value == pytest.approx(first.mean() / 4 - second.mean() * 3 / 4)
    assert found.high - found.low == pytest.approx(2 * error, rel=0.02)


def test_where_lower_is_better_the_fitness_is_turned_and_its_interval_too():
    lower = Objective("t", "acc", higher_is_better=False)
    found = fitness_interval([lower], scores(t_acc=answers(15, 148)))
    assert found.value == pytest.approx(-15 / 148)
    assert (found.low, found.high) == pytest.approx((-0.1605, -0.0624), abs=6e-4)


def test_one_objective_without_an_interval_leaves_the_others_theirs():
    mixed = scores(t_acc=answers(5, 9))
    mixed = Scores(mixed.documents, mixed.values, {**mixed.aggregates, "g/acc": 0.25})
    objectives = [ACC, Objective("g", "acc")]
    found = intervals(objectives, mixed)
    assert found["t/acc"].has_interval
    assert found["g/acc"].value == 0.25
    assert not found["g/acc"].has_interval
    assert not fitness_interval(objectives, mixed).has_interval


def test_figures_are_in_per_cent_where_they_are_shares():
    assert factor_of([0.0, 1.0, math.nan], "t/acc") == 100
    assert factor_of([0.9, 1.1], "t/acc") == 1
    assert factor_of([-0.2, -0.4], "t/logprob") == 1, "nothing below 0 is a share"
    assert [factor_of([1.0], key) for key in ("t/nll", "t/tokens", "model/layers")] == [1, 1, 1]
    assert interval(answers(1162, 1400), 0.83).texts(100) == ("83.0", "[80.9, 84.9]")
    big = compare([ACC], scores(t_acc=[7.5, 8.0, 7.0] * 9), scores(t_acc=[7.0, 7.5, 6.5] * 9))
    assert big is not None
    assert big.text == "+0.500 [+0.463, +0.537], better with probability > 0.999"


def test_small_numbers_keep_their_digits():
    """A log-probability was `-0.0 [-0.0, -0.0]`."""
    found = Interval(-0.00031, -0.00042, -0.0002)
    assert found.texts(1.0) == ("-0.000310", "[-0.000420, -0.000200]")
    assert Interval(-0.04, -1.24, 1.1).texts(1.0) == ("-0.04", "[-1.24, 1.10]")
    assert Interval(-0.04, -12.4, 1.1).texts(1.0) == ("0.0", "[-12.4, 1.1]")


@pytest.mark.parametrize(("documents", "is_sure"), [(2, False), (400, True)])
def test_a_constant_difference_is_not_certain_on_few_documents(documents, is_sure):
    """Two documents with 8 and 10 tokens had a difference of 2 [2, 2], and p = 0."""
    ours, theirs = (scores(t_tokens=[tokens] * documents) for tokens in (8, 10))
    found = compare([Objective("t", "tokens", higher_is_better=False)], ours, theirs)
    assert found is not None
    assert found.difference.low < found.difference.value == 2.0
    assert (found.difference.low > 0) is (found.probability > 0.975) is is_sure
