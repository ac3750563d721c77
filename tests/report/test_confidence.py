"""95 % intervals have the true value in them about as often as they say; equal models are equal.

Figures are compared with published ones and with theory; the bounds of unknown intervals are nan.
"""

import math
from functools import lru_cache
from itertools import product
from math import prod

import numpy as np
import pytest
from scipy.stats import binom, multinomial, t

from evomerge.report.confidence import (
    Interval,
    Mean,
    compare,
    confidence,
    factor_of,
    fitness_interval,
    intervals,
    mean_of,
    mean_of_runs,
)
from evomerge.report.confidence import interval as interval_of
from evomerge.scores import Objective, Scores

ACC = Objective("t", "acc")


def scores(documents=None, **values):
    """Scores whose aggregates are means; `t_acc` is the metric acc of task t."""
    named = {key.replace("_", "/"): tuple(map(float, items)) for key, items in values.items()}
    sizes = {key.split("/")[0]: len(items) for key, items in named.items()}
    asked = documents or {task: tuple(range(size)) for task, size in sizes.items()}
    return Scores(asked, named, {key: float(np.mean(items)) for key, items in named.items()})


def interval(values, aggregate):
    """A score with its interval, of the values of its documents."""
    plain = tuple(map(float, values))
    known = Scores({"t": tuple(range(len(plain)))}, {ACC.key: plain}, {ACC.key: aggregate})
    return intervals([ACC], known)[ACC.key]


def answers(right, of):
    return [1.0] * right + [0.0] * (of - right)


@lru_cache(None)
def gained(ours, theirs, of):
    """The mean difference of two models, of which each alone has so many documents right."""
    values = np.array([1.0] * ours + [-1.0] * theirs + [0.0] * (of - ours - theirs))
    return mean_of(values, 1.0, is_share=True, is_difference=True)


@lru_cache(None)
def judged(*pairs):
    """Interval of the mean over tasks of differences (gained, lost, documents), and how sure."""
    means = [gained(*pair) for pair in pairs]
    return interval_of(means), confidence(means)


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
    assert (found.low, found.high) == pytest.approx((low, high), abs=6e-4)
    assert 0.0 <= found.low <= found.value <= found.high <= 1.0
    lower = Objective("t", "acc", higher_is_better=False)
    turned = fitness_interval([lower], scores(t_acc=answers(right, of)))
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))


def test_the_interval_of_agresti_and_min():
    """Agresti and Min 2005: (c - b) / (n + 2) and its error, with half a document added to each."""
    low, high = gained(12, 4, 100).bounds(0.95)
    centre = (12.5 - 4.5) / 102
    half = t.ppf(0.975, 100) * ((12.5 + 4.5) - 8.0**2 / 102) ** 0.5 / 102
    assert (low, high) == pytest.approx((centre - half, centre + half), abs=1e-7)
    assert gained(20, 0, 20).bounds(0.95)[1] == 1.0
    moved = interval_of([gained(12, 4, 100), Mean(2.0, 0, lambda level: (2.0, 2.0))])
    assert moved == pytest.approx((low + 2, high + 2))


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
        ordered = tuple(sorted(counts))  # the order of the tasks does not matter
        if ordered not in known:
            given = {f"t{task}_acc": answers(k, documents) for task, k in enumerate(counts)}
            found = fitness_interval(objectives, scores(**given))
            known[ordered] = found.low <= p <= found.high
        probability = prod(binom.pmf(k, documents, p) for k in counts)
        total += probability
        covered += probability * known[ordered]
    assert covered / total > 0.91  # as Wilson's of one task, which is 0.90 to 0.98


@pytest.mark.parametrize("tasks", [1, 3])
@pytest.mark.parametrize("documents", [20, 50, 200])
@pytest.mark.parametrize(
    ("better", "worse"), [(0.08, 0.04), (0.2, 0.1), (0.01, 0.01), (0.1, 0.1), (0.35, 0.05)]
)
def test_differences_of_right_and_wrong_have_intervals_that_cover(better, worse, documents, tasks):
    generator, runs = np.random.default_rng(2), 1500
    shares = [better, worse, 1 - better - worse]
    counts = generator.multinomial(documents, shares, size=(runs, tasks))
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


def test_a_mean_of_runs_is_no_surer_than_its_documents():
    one, other = Interval(0.117, 0.08, 0.16), Interval(0.117, 0.09, 0.15)
    found = mean_of_runs([one, other])
    assert (found.low, found.high) == pytest.approx((0.085, 0.155))
    assert mean_of_runs([one]) == one and not mean_of_runs([one, Interval(0.2)]).has_interval
    # Student's t of two degrees of freedom: 4.3027 * 0.1 / sqrt(3) = 0.24841.
    values = [Interval(v, v - 0.1, v + 0.2) for v in (0.4, 0.5, 0.6)]
    found = mean_of_runs(values, 0.0, 0.75)
    assert found.low == pytest.approx(0.5 - math.hypot(0.24841, 0.1), abs=1e-5)
    assert found.high == 0.75


def test_unknown_intervals_are_nan():
    """The average of a group, an F1 over all documents, one value, and what is no number."""
    nan, inf = math.nan, math.inf
    wrong = [((), 0.4), ((1, 0), 0.7), ((0.3,), 0.3), ((nan, 1), nan), ((inf, 1), inf)]
    for values, aggregate in wrong:
        found = interval(values, aggregate)
        assert not found.has_interval and found.texts(100)[1] == ""
        assert found.value == aggregate or math.isnan(found.value)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, 3.0)])
def test_equal_models_are_better_with_probability_one_half(weights):
    """A bootstrap of equal answers would resample zeros only, and be sure."""
    objectives = [Objective("t", "acc", weights[0]), Objective("u", "acc", weights[1])]
    same = scores(t_acc=np.random.default_rng(3).random(30), u_acc=answers(9, 20))
    found = compare(objectives, same, same)
    assert found.probability == 0.5
    assert found.difference.high == pytest.approx(-found.difference.low, rel=1e-6)
    assert found.difference.high > 0.01
    # Sums of thirds are not exactly 0.0 in every order.
    objectives = [Objective("t", "acc", 1.0), Objective("u", "acc", 2.0)]
    ours = scores(t_acc=[1, 0, 1, 0, 1, 0], u_acc=[1.0] * 4)
    theirs = scores(t_acc=[0, 1, 0, 1, 0, 1], u_acc=[1.0] * 4)
    for found in (compare(objectives, ours, theirs), compare(objectives, theirs, ours)):
        assert found.probability == pytest.approx(0.5)


def test_what_cannot_be_compared_is_none():
    ours = scores(t_acc=answers(3, 6))
    assert compare([ACC], ours, scores({"t": (1, 2, 3, 4, 5, 6)}, t_acc=answers(3, 6))) is None
    assert compare([ACC], scores(t_acc=[2.0]), scores(t_acc=[0.0])) is None
    group = Scores({"t": (0, 1)}, {}, {"group/acc": 0.5})
    assert compare([Objective("group", "acc")], group, group) is None
    assert not fitness_interval([Objective("group", "acc")], group).has_interval


def test_metrics_of_a_task_are_added_up_by_document_and_spreads_of_tasks_are_added():
    """Two metrics that move against each other have a sum with little spread."""

    def width(found):
        return found.high - found.low

    generator = np.random.default_rng(4)
    up, both = generator.random(50), [Objective("t", "up"), Objective("t", "down")]
    against = fitness_interval(both, scores(t_up=up, t_down=1 - up))
    along = fitness_interval(both, scores(t_up=up, t_down=up))
    assert width(against) < 0.5 * width(along)
    assert width(along) == pytest.approx(width(fitness_interval(both[:1], scores(t_up=up))))
    first, second = generator.normal(size=400), generator.normal(size=900)
    objectives = [Objective("t", "m", 1.0), Objective("u", "m", 3.0, higher_is_better=False)]
    found = fitness_interval(objectives, scores(t_m=first, u_m=second))
    error = 1.959964 * math.hypot(first.std() / 20 / 4, second.std() / 30 * 3 / 4)
    assert found.value == pytest.approx(first.mean() / 4 - second.mean() * 3 / 4)
    assert width(found) == pytest.approx(2 * error, rel=0.02)


def test_figures_are_in_per_cent_where_they_are_shares_and_small_ones_keep_their_digits():
    """A log-probability was `-0.0 [-0.0, -0.0]`."""
    assert factor_of([0.0, 1.0, math.nan], "t/acc") == 100
    assert factor_of([0.9, 1.1], "t/acc") == 1
    assert factor_of([-0.2, -0.4], "t/logprob") == 1, "nothing below 0 is a share"
    assert [factor_of([1.0], key) for key in ("t/nll", "t/tokens", "model/layers")] == [1, 1, 1]
    assert interval(answers(1162, 1400), 0.83).texts(100) == ("83.0", "[80.9, 84.9]")
    big = compare([ACC], scores(t_acc=[7.5, 8.0, 7.0] * 9), scores(t_acc=[7.0, 7.5, 6.5] * 9))
    assert big.text == "+0.500 [+0.463, +0.537], better with probability > 0.999"
    for item, texts in {
        (-0.00031, -0.00042, -0.0002): ("-0.000310", "[-0.000420, -0.000200]"),
        (-0.04, -12.4, 1.1): ("0.0", "[-12.4, 1.1]"),
    }.items():
        assert Interval(*item).texts(1.0) == texts


def test_a_constant_difference_is_not_certain_on_few_documents():
    """Two documents with 8 and 10 tokens had a difference of 2 [2, 2], and p = 0."""
    for documents, is_sure in ((2, False), (400, True)):
        ours, theirs = (scores(t_tokens=[tokens] * documents) for tokens in (8, 10))
        found = compare([Objective("t", "tokens", higher_is_better=False)], ours, theirs)
        assert found.difference.low < found.difference.value == 2.0
        assert (found.difference.low > 0) is (found.probability > 0.975) is is_sure
