"""Tie-breakers order candidates of equal fitness, and never let a worse fitness win."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.scores import Example, Objective, Scores, fitness, fitness_in_order

ONE = (Objective("t", "acc", tie_breaker="nll"),)
TWO = (*ONE, Objective("u", "acc", weight=2.0, tie_breaker="nll"))
nats = st.floats(0, 1e6)


def scores(share: float, nll: float, other: float = 0.0, nll_of_other: float = 0.0) -> Scores:
    found = {"t/acc": share, "t/nll": nll, "u/acc": other, "u/nll": nll_of_other}
    return Scores({"t": (0,)}, {}, found)


@given(documents=st.integers(1, 100_000), right=st.data(), ours=nats, theirs=nats)
def test_a_worse_share_is_lower_whatever_the_nats(documents, right, ours, theirs):
    few = right.draw(st.integers(0, documents - 1))
    worse = fitness_in_order(ONE, scores(few / documents, ours))
    assert worse < fitness_in_order(ONE, scores((few + 1) / documents, theirs))


@given(share=st.floats(0, 1), less=nats, more=st.floats(1e-5, 10))
def test_of_equal_shares_the_one_with_fewer_nats_is_higher(share, less, more):
    ours, theirs = scores(share, less), scores(share, less + more * (1 + less))
    assert fitness_in_order(ONE, ours) > fitness_in_order(ONE, theirs)
    assert fitness_in_order(ONE, ours) == pytest.approx(fitness(ONE, ours), abs=1e-9)


def test_several_objectives_have_one_fitness_and_one_mean_of_nats():
    ours, theirs = scores(0.3, 2.0, 0.1, 1.0), scores(0.1, 5.0, 0.2, 1.0)
    assert fitness(TWO, ours) == pytest.approx(fitness(TWO, theirs))
    assert fitness_in_order(TWO, ours) > fitness_in_order(TWO, theirs)


@pytest.mark.parametrize("nll", [math.inf, 0.0, -0.0])
def test_no_number_of_nats_is_an_error(nll):
    assert 0.5 <= fitness_in_order(ONE, scores(0.5, nll)) < 0.5 + 1e-9


def test_without_a_tie_breaker_it_is_the_fitness_to_the_last_bit():
    plain = (Objective("t", "acc"), Objective("u", "acc", weight=3.0))
    found = scores(1 / 3, 1.0, 0.7)
    assert fitness_in_order(plain, found) == fitness(plain, found)


def test_as_json_a_value_that_is_no_number_is_null_and_read_as_nan():
    example = Example("t", 0, "", "", "", "", {"nll": math.inf})
    broken = {"t/acc": 0.5, "t/nll": math.nan}
    odd = Scores({"t": (0, 1)}, {"t/nll": (math.inf, 2.0)}, broken, examples=(example,))
    text = json.dumps(odd.to_dict(), allow_nan=False)
    again = Scores.from_dict(json.loads(text))
    assert again.aggregates["t/acc"] == 0.5 and again.values["t/nll"][1] == 2.0
    nans = (again.aggregates["t/nll"], again.values["t/nll"][0], again.examples[0].values["nll"])
    assert all(map(math.isnan, nans))
