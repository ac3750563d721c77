"""The laws of rankings: one fitness, fronts, constraints."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.run.history import Candidate
from evomerge.run.ranking import ParetoFront, WeightedSum, knee, nondominated, spread
from evomerge.scores import Constraint, Expected, Failure, Objective, Scores

OBJECTIVES = (Objective("t", "acc"), Objective("t", "tokens", higher_is_better=False))
CONSTRAINTS = (Constraint("t", "acc", at_least=0.5),)
RANKINGS = [
    kind(OBJECTIVES, rules) for kind in (WeightedSum, ParetoFront) for rules in ((), CONSTRAINTS)
]

eighths = st.integers(0, 8).map(lambda n: n / 8)
outcomes = st.one_of(
    st.tuples(eighths, eighths, st.just(False)),
    st.tuples(eighths, eighths, st.just(True)),
    st.none(),
)
points = st.lists(st.tuples(eighths, eighths, eighths), min_size=1, max_size=12)


def candidate(ranking, number, outcome, split="search"):
    item = Candidate(number, None, f"digest {number}")
    if outcome is None:
        item.outcomes[split] = Failure("merge", "made up")
        return item
    acc, tokens, is_estimate = outcome
    expected = {"t/acc": Expected(acc, 0.1)} if is_estimate else {}
    scores = Scores({"t": (0, 1)}, {}, {"t/acc": acc, "t/tokens": tokens}, expected=expected)
    item.outcomes[split] = scores
    item.values = ranking.values(scores)
    return item


@pytest.mark.parametrize("ranking", RANKINGS)
@given(made=st.lists(outcomes, max_size=10), order=st.randoms(use_true_random=False))
def test_incumbents_depend_on_the_candidates_only(ranking, made, order):
    candidates = [candidate(ranking, number, item) for number, item in enumerate(made)]
    best = ranking.incumbents(candidates)
    shuffled = order.sample(candidates, len(candidates))
    assert ranking.incumbents(shuffled) == best
    grown = []
    for item in shuffled:
        grown = ranking.incumbents([*grown, item])
    assert grown == best
    whole = [item for item in candidates if item.status == "scored" and not item.is_estimate]
    assert bool(best) == bool(whole)
    assert all(item in whole for item in best)
    assert (ranking.best(best) in best) if best else ranking.best(best) is None
    if ranking.constraints:
        keeps = [item for item in whole if item.scores("search").aggregates["t/acc"] >= 0.5]
        assert not keeps or all(item in keeps for item in best)


@given(
    made=st.lists(st.tuples(eighths, st.floats(0, 30)), min_size=1, max_size=10),
    order=st.randoms(use_true_random=False),
)
def test_ties_are_broken_by_fewer_nats_and_only_ties(made, order):
    ranking = WeightedSum((Objective("t", "acc", tie_breaker="nll"),))
    candidates = []
    for number, (acc, nll) in enumerate(made):
        item = Candidate(number, None, f"digest {number}")
        scores = Scores({"t": (0, 1)}, {}, {"t/acc": acc, "t/nll": round(nll, 2)})
        item.outcomes["search"], item.values = scores, ranking.values(scores)
        candidates.append(item)

    def key(item):
        found = item.scores("search").aggregates
        return -found["t/acc"], found["t/nll"], item.number

    best = sorted(candidates, key=key)
    shuffled = order.sample(candidates, len(candidates))
    assert ranking.incumbents(shuffled) == best[:1]
    assert ranking.finalists(shuffled, 4) == best[:4]
    assert best[0].fitness == best[0].scores("search").aggregates["t/acc"]


@given(made=st.lists(outcomes, max_size=12))
def test_no_candidate_dominates_a_member_of_the_front(made):
    ranking = RANKINGS[2]
    candidates = [candidate(ranking, number, item) for number, item in enumerate(made)]
    front = ranking.incumbents(candidates)
    whole = [item for item in candidates if item.values and not item.is_estimate]
    for member in front:
        for other in whole:
            at_least = all(a >= b for a, b in zip(other.values, member.values, strict=True))
            assert not (at_least and other.values != member.values)
    for item in whole:
        covered = [all(a >= b for a, b in zip(m.values, item.values, strict=True)) for m in front]
        assert any(covered)


def test_what_breaks_a_constraint_less_is_better_and_what_keeps_it_is_best():
    ranking = WeightedSum(OBJECTIVES[:1], (Constraint("t", "tokens", at_most=0.5),))
    far, near, kept = (
        candidate(ranking, number, (acc, tokens, False))
        for number, (acc, tokens) in enumerate([(1.0, 1.0), (0.9, 0.6), (0.2, 0.5)])
    )
    assert ranking.incumbents([far, near]) == [near]
    assert ranking.incumbents([far, near, kept]) == [kept]
    assert ranking.finalists([far, near, kept], 3) == [kept, near, far]


@pytest.mark.parametrize(
    ("constraint", "value", "broken"),
    [
        (Constraint("t", "acc", at_least=0.5), 0.5, 0.0),
        (Constraint("t", "acc", at_least=0.5), 0.25, 0.5),
        (Constraint("t", "acc", at_most=10.0), 15.0, 0.5),
        (Constraint("t", "acc", at_least=0.0), -0.25, 0.25),
        (Constraint("t", "acc", at_least=0.1, at_most=0.2), 0.15, 0.0),
        (Constraint("t", "acc", at_least=0.1), math.nan, math.inf),
    ],
)
def test_violations_are_shares_of_the_bound(constraint, value, broken):
    assert constraint.violation(Scores({}, {}, {"t/acc": value})) == pytest.approx(broken)


@given(points)
def test_a_front_has_a_knee_and_can_be_thinned(items):
    front = nondominated(dict.fromkeys(items))
    assert knee(front) in front
    for count in range(1, len(front) + 2):
        chosen = spread(front, count)
        assert len(chosen) == min(count, len(front)) and knee(front) in chosen
        assert chosen == [point for point in front if point in chosen]


def test_the_knee_is_near_the_ideal_point():
    assert knee([(1.0, 0.0), (0.9, 0.8), (0.0, 1.0)]) == (0.9, 0.8)
    assert knee([(5.0, 1.0)]) == (5.0, 1.0)
