"""The law of strategies, for the one that consists of a space and an optimizer."""

from __future__ import annotations

from typing import Any

import pytest
from draws import draws
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import space

from evomerge.optimize import create
from evomerge.scores import Failure, Outcome, Scores
from evomerge.strategy.genome import GenomeStrategy

NAMES = ("random", "cma", "nevergrad:DE")


def values(scores: Scores) -> tuple[float, ...]:
    return (scores.aggregates["task/acc"],)


def new(name: str) -> GenomeStrategy:
    searched = space()
    start = [tuple(share for _ in searched.genes) for share in (0.25, 0.75)]
    return GenomeStrategy(searched, create(name, searched.genes, seed=3), values, start=start)


def outcome(value: float | None) -> Outcome:
    if value is None:
        return Failure("merge", "not finite")
    return Scores({"task": (0,)}, {"task/acc": (value,)}, {"task/acc": value}, {})


OUTCOMES = st.lists(
    st.one_of(st.none(), st.just(float("nan")), st.floats(-1, 1), st.just("lost")), max_size=25
)


@pytest.mark.parametrize("name", NAMES)
@given(OUTCOMES)
@settings(max_examples=draws(15), deadline=None)
def test_what_was_asked_is_proposed_again_from_its_origins(name: str, told: list[Any]) -> None:
    one, other = new(name), new(name)
    label = next(iter(one.space.baselines()))
    origin = one.add_baseline(0, label)
    other.repeat(0, label, origin)
    for number, value in enumerate(told, start=1):
        proposal = one.ask(number)
        assert one.space.decode(tuple(proposal.origin["genome"])) == proposal.recipe
        other.repeat(number, None, proposal.origin)
        if value != "lost":
            one.tell(number, outcome(value))
            other.tell(number, outcome(value))
        assert one.left == other.left
    assert one.ask(99).recipe.digest == other.ask(99).recipe.digest


@pytest.mark.parametrize("name", NAMES)
def test_a_generation_is_counted_from_its_first_proposal(name: str) -> None:
    """What is tried first does not count, so that a generation is of the optimizer's own."""
    strategy = new(name)
    strategy.add_baseline(0, next(iter(strategy.space.baselines())))
    assert strategy.left == strategy.generation
    while strategy._start or strategy._starting:
        strategy.ask(len(strategy._trials))
        assert (strategy.left == strategy.generation) is (not strategy._starting)
    for asked in range(1, 2 * strategy.generation + 1):
        strategy.ask(len(strategy._trials))
        assert strategy.left == strategy.generation - asked % strategy.generation


def test_the_recorded_genome_counts_where_another_machine_computes_another(
    caplog: pytest.LogCaptureFixture,
) -> None:
    one, other = new("cma"), new("cma")
    genome = [0.25 + value / 2 for value in one.ask(0).origin["genome"]]
    other.repeat(0, None, {"genome": genome})
    other.repeat(1, None, {"genome": genome})
    assert len(caplog.records) == 1
    assert "recorded genomes are used" in caplog.text


def test_outcomes_of_baselines_without_a_genome_are_ignored() -> None:
    strategy = new("random")
    strategy.repeat(0, "somewhere", {})
    strategy.tell(0, outcome(1.0))


def test_the_start_is_proposed_after_the_baselines_and_before_all_else() -> None:
    strategy = new("cma")
    for number, label in enumerate(strategy.space.baselines()):
        strategy.add_baseline(number, label)
    proposed = [strategy.ask(number).origin["genome"] for number in range(9, 12)]
    assert [set(genome) for genome in proposed[:2]] == [{0.25}, {0.75}]
    assert len(set(proposed[2])) == len(strategy.space.genes)
