"""The law of strategies, for the one that consists of a space and an optimizer."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from draws import draws
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import OBJECTIVES, ScriptedExecutor, search, space, trajectory, unit
from spaces import parameters, paths

from evomerge.errors import SearchError
from evomerge.execute.protocol import Job
from evomerge.optimize import create
from evomerge.recipe import Layer, Recipe
from evomerge.run.history import History
from evomerge.run.ranking import ParetoFront, Ranking, WeightedSum
from evomerge.scores import Failure, Objective, Outcome, Scores
from evomerge.strategy.genome import SKIPPED, SKIPPED_RECIPES, GenomeStrategy

NAMES = ("random", "cma", "nevergrad:DE")


RANKING = WeightedSum(OBJECTIVES)


def new(name: str) -> GenomeStrategy:
    searched = space()
    start = [tuple(share for _ in searched.genes) for share in (0.25, 0.75)]
    return GenomeStrategy(searched, create(name, searched.genes, seed=3), RANKING, start=start)


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
        recipe, origin = one.ask(number)
        assert one.space.decode(tuple(origin["genome"])) == recipe
        other.repeat(number, None, origin)
        if value != "lost":
            one.tell(number, outcome(value))
            other.tell(number, outcome(value))
        assert one.left == other.left
    assert one.ask(99)[0].digest == other.ask(99)[0].digest


@pytest.mark.parametrize("name", NAMES)
def test_a_generation_is_counted_from_its_first_proposal(name: str) -> None:
    strategy = new(name)
    strategy.add_baseline(0, next(iter(strategy.space.baselines())))
    assert strategy.left == strategy.generation
    for number in (1, 2):  # the start
        strategy.ask(number)
        assert (strategy.left == strategy.generation) is (number == 2)
    for asked in range(1, 2 * strategy.generation + 1):
        strategy.ask(2 + asked)
        assert strategy.left == strategy.generation - asked % strategy.generation


def test_the_recorded_genome_counts_where_another_machine_computes_another(caplog):
    one, other = new("cma"), new("cma")
    genome = [0.25 + value / 2 for value in one.ask(0)[1]["genome"]]
    other.repeat(0, None, {"genome": genome})
    other.repeat(1, None, {"genome": genome})
    assert len(caplog.records) == 1
    assert "recorded genomes are used" in caplog.text


def test_the_start_is_proposed_after_the_baselines_and_before_all_else() -> None:
    strategy = new("cma")
    for number, label in enumerate(strategy.space.baselines()):
        strategy.add_baseline(number, label)
    strategy.repeat(8, "somewhere", {})  # a baseline without a genome
    strategy.tell(8, outcome(1.0))
    proposed = [strategy.ask(number)[1]["genome"] for number in range(9, 12)]
    assert [set(genome) for genome in proposed[:2]] == [{0.25}, {0.75}]
    assert len(set(proposed[2])) == len(strategy.space.genes)


NOTHING = Layer("", ())
FRAME = Recipe("a", {}, NOTHING, NOTHING, dtype="float32")
SLOTS = paths("sakana", {"a": 8, "b": 8}, FRAME, repeats=1, scales=1.0, ends="free")
"""Slots with numbers of which only the sign counts: many genomes for each recipe."""

TWO = (Objective("task", "acc"), Objective("task", "layers", higher_is_better=False))


def path_score(job: Job) -> Outcome:
    blocks = [layer.sources[0] for layer in job.recipe.layers["model.layers"]]
    good = sum(unit("good", block.parent, block.layer) < 0.4 for block in blocks)
    acc = good - 0.3 * (len(blocks) - good)
    return Scores(
        {"task": (0,)}, {"task/acc": (acc,)}, {"task/acc": acc, "task/layers": len(blocks)}
    )


def slots_search(
    path: Path,
    optimizer: str,
    width: int = 1,
    dies_after: int | None = None,
    order: str = "generation",
) -> History:
    has_front = optimizer == "nsga2"
    ranking: Ranking = ParetoFront(TWO) if has_front else WeightedSum(TWO[:1])

    def make() -> GenomeStrategy:
        made = create(optimizer, SLOTS.genes, seed=1, objectives=2 if has_front else 1)
        return GenomeStrategy(SLOTS, made, ranking)

    return search(
        path,
        ScriptedExecutor(width, random.Random(width), 0.1, dies_after, path_score),
        order=order,
        candidates=120,
        ranking=ranking,
        searched=SLOTS,
        make=make,
    )


@pytest.mark.parametrize(
    ("optimizer", "order"),
    [
        ("auto", "arrival"),
        ("cma", "generation"),
        ("nsga2", "arrival"),
        ("two-points-de", "arrival"),
    ],
)
def test_a_recipe_is_proposed_once(tmp_path: Path, optimizer: str, order: str) -> None:
    history = slots_search(tmp_path / "run", optimizer, width=4, order=order)
    seen: set[str] = set()
    repeated = 0
    for candidate in history.candidates:
        if candidate.label is None and candidate.digest in seen:
            repeated += 1
            assert candidate.origin[SKIPPED] == SKIPPED_RECIPES
        seen.add(candidate.digest)
    assert repeated < 0.15 * len(history.candidates)
    assert any(candidate.origin.get(SKIPPED) for candidate in history.candidates)


@pytest.mark.parametrize(
    ("optimizer", "order"),
    [("cma", "arrival"), ("nsga2", "generation"), ("two-points-de", "generation")],
)
def test_a_search_with_known_recipes_goes_on_after_kills_as_it_was(tmp_path, optimizer, order):
    whole = trajectory(slots_search(tmp_path / "whole", optimizer, order=order))
    if order == "generation":
        assert trajectory(slots_search(tmp_path / "wide", optimizer, 7)) == whole
    killed, widths = tmp_path / "killed", (1, 1, 1) if order == "arrival" else (5, 3, 7)
    for width, dies_after in zip(widths, (21, 33), strict=False):
        with pytest.raises(SearchError, match="killed"):
            slots_search(killed, optimizer, width, dies_after, order)
    assert trajectory(slots_search(killed, optimizer, widths[-1], order=order)) == whole


class Listed:
    """An optimizer that proposes listed genomes, and notes what it is told."""

    population = 4

    def __init__(self, genomes: Sequence[tuple[float, ...]]) -> None:
        self.genomes = iter(genomes)
        self.told: list[tuple[tuple[float, ...], Any]] = []

    def ask(self) -> tuple[float, ...]:
        return next(self.genomes)

    def replay(self, genome: tuple[float, ...]) -> tuple[float, ...]:
        return next(self.genomes)

    def tell(self, genome: tuple[float, ...], values: Any, violation: float = 0.0) -> None:
        self.told.append((genome, values))


def path_of(*signs: int, size: float = 1.0) -> tuple[float, ...]:
    """Return a genome of `SLOTS`; its size changes nothing."""
    return tuple(
        size * gene.high / 2 * (1 if place in signs else -1)
        for place, gene in enumerate(SLOTS.genes)
    )


def listed(*genomes: tuple[float, ...]) -> GenomeStrategy:
    return GenomeStrategy(SLOTS, Listed(genomes), RANKING)  # type: ignore[arg-type]


def test_the_optimizer_is_told_what_is_known_of_a_recipe() -> None:
    """At once, or when there is an outcome; also that it has failed."""
    first, second, third = (path_of(place, place + 1) for place in (0, 2, 4))
    again, later = path_of(0, 1, size=0.5), path_of(0, 1, size=0.25)
    other = path_of(2, 3, size=0.5)
    strategy = listed(first, again, second, later, other, third)
    told = strategy.optimizer.told  # type: ignore[attr-defined]
    assert SKIPPED not in strategy.ask(0)[1]
    assert strategy.left == 3
    assert strategy.ask(1)[1][SKIPPED] == 1
    assert strategy.left == 1
    strategy.tell(0, outcome(0.5))
    assert told == [(first, (0.5,)), (again, (0.5,))]
    assert strategy.ask(2)[1][SKIPPED] == 2
    assert strategy.left == strategy.generation  # complete, by six genomes
    strategy.tell(1, outcome(None))
    assert told[2:] == [(later, (0.5,)), (second, None), (other, None)]


def test_what_was_skipped_is_skipped_again_whatever_another_machine_computes() -> None:
    """Or the generations of a resumed search would end elsewhere than the recorded ones."""
    proposed = [path_of(0, 1), path_of(0, 1, size=0.5), path_of(2, 3), path_of(4, 5)]
    one = listed(*proposed)
    origins = [one.ask(number)[1] for number in range(3)]
    other = listed(proposed[0], path_of(6, 7), *proposed[2:])  # no repeat here
    for number, origin in enumerate(origins):
        other.repeat(number, None, origin)
    assert other.left == other.generation == one.left
    for strategy in (one, other):
        for number in range(3):
            strategy.tell(number, outcome(number))
    told = (one.optimizer.told, other.optimizer.told)  # type: ignore[attr-defined]
    assert told[1] == [item for item in told[0] if item[0] != proposed[1]]


def test_a_space_without_other_recipes_is_searched_on() -> None:
    strategy = listed(
        *(path_of(0, 1, size=1 / (place + 1)) for place in range(SKIPPED_RECIPES + 2))
    )
    strategy.ask(0)
    assert strategy.ask(1)[1][SKIPPED] == SKIPPED_RECIPES
    # An optimizer that repeats a genome has no other one.
    strategy = listed(path_of(0, 1), path_of(0, 1))
    strategy.ask(0)
    assert SKIPPED not in strategy.ask(1)[1]


def test_each_genome_of_a_baseline_is_told_its_outcome_and_recorded() -> None:
    searched = parameters(["linear", "task_arithmetic"], layers=2)
    one, again = (
        GenomeStrategy(searched, create("cma-margin", searched.genes, seed=3), RANKING)
        for _ in range(2)
    )
    labels = list(one.space.baselines())
    for number, label in enumerate(labels):
        origin = one.add_baseline(number, label)
        assert {origin["genome"][0], origin["others"][0][0]} == {0.0, 1.0}
        again.repeat(number, label, origin)
    for strategy in (one, again):
        for number in reversed(range(len(labels))):
            strategy.tell(number, outcome(0.1 * number))
    assert [one.ask(number)[1] for number in range(9, 40)] == [
        again.ask(number)[1] for number in range(9, 40)
    ]
