"""The law of strategies for M2N2, and its rules against the authors' script, done by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from draws import draws
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.errors import SearchError
from evomerge.run.history import Candidate
from evomerge.scores import Constraint, Expected, Failure, Objective, Outcome, Scores
from evomerge.strategy.members import recipe_in
from evomerge.strategy.niches import (
    CrossoverSpace,
    NichesArchive,
    NichesOptions,
    NichesStrategy,
    shared_documents,
)

SPACE = CrossoverSpace(parents=["a", "b"], host="a", stacks={"model.layers": 2})
LABELS = list(SPACE.baselines())
FEW = settings(max_examples=draws(25), deadline=None)
ROWS = st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=4, max_size=4)


def new(generation: int = 1, **options: Any) -> NichesStrategy:
    def documents(scores: Scores) -> Any:
        return np.array(scores.values["task/acc"]), np.ones(4)

    return NichesStrategy(SPACE, documents, NichesOptions(**options), 5, generation)


def outcome(values: list[float] | None) -> Outcome:
    if values is None:
        return Failure("merge", "not finite")
    return Scores({"task": (0, 1, 2, 3)}, {"task/acc": tuple(values)}, {"task/acc": sum(values)})


@given(
    st.lists(st.one_of(st.none(), st.just("lost"), ROWS), max_size=25),
    st.sampled_from([1, 3]),
    st.booleans(),
)
@FEW
def test_what_was_asked_is_proposed_again_from_its_origins(told, generation, attraction):
    setting = {"archive": 4, "generation": generation, "attraction": attraction}
    one, other = new(**setting), new(**setting)
    candidates = []
    for number, label in enumerate(LABELS):
        assert one.add_baseline(number, label) == {}
        other.repeat(number, label, {})
        candidates.append(Candidate(number, label, SPACE.baselines()[label].digest))
    for number, values in enumerate(told, start=len(LABELS)):
        proposal = one.ask(number)
        assert set(proposal.origin["mates"]) <= set(range(number))
        other.repeat(number, None, proposal.origin)
        candidates.append(Candidate(number, None, proposal.recipe.digest, proposal.origin))
        assert recipe_in(SPACE, candidates, number) == proposal.recipe
        if values != "lost":
            one.tell(number, outcome(values))
            other.tell(number, outcome(values))
        assert one.left == other.left
        assert len(one.archive.members) <= 4
    assert one.ask(99) == other.ask(99)


def test_a_crossover_splits_both_stacks_of_an_encoder_decoder():
    """Places are the embeddings, the encoder's blocks, the decoder's blocks, the head."""
    space = CrossoverSpace(parents=["a", "b"], host="a", stacks={"encoder": 2, "decoder": 3})
    assert space.places == 7 and space.max_depth == 3
    child = space.child({"split": 4, "t": 0.25}, space.first_parents())
    parts = [child.embeddings, *child.layers["encoder"], *child.layers["decoder"], child.head]
    assert [layer.knobs["t"] for layer in parts] == [0.25] * 4 + [0.75] * 3
    blocks = [layer.sources[0].layer for layer in parts]
    assert blocks == [None, 0, 1, 0, 1, 2, None]


def test_averages_that_are_tried_for_the_greedy_soup_are_ignored():
    strategy = new()
    for number, label in enumerate(LABELS):
        strategy.add_baseline(number, label)
        strategy.tell(number, outcome([1, 1, 0, 0]))
    for number, label in ((3, None), (4, "greedy soup")):
        strategy.repeat(number, label, {"soup": ["a", "b"]})
        strategy.tell(number, outcome([1, 1, 1, 1]))
    assert strategy.archive.members == [0, 1, 2] and strategy.left == 1


def test_a_generation_is_asked_of_one_archive_and_baselines_do_not_count():
    strategy = new(generation=3)
    for number, label in enumerate(LABELS):
        strategy.add_baseline(number, label)
        strategy.tell(number, outcome([0, 0, 1, 1] if number else [1, 1, 0, 0]))
    assert strategy.left == 3
    for number in range(3, 7):
        assert set(strategy.ask(number).origin["mates"]) <= {0, 1, 2}
    assert strategy.left == 2


def test_an_origin_that_is_no_crossover_is_refused():
    strategy = new()
    strategy.add_baseline(0, "a")
    for origin in ({"mates": [0, 9], "split": 1, "t": 0.5}, {"mates": [0]}):
        with pytest.raises(ValueError):
            strategy.repeat(1, None, origin)


def scripts_archive(rows: list[list[float]], size: int, alpha: float) -> list[int]:
    """Return which rows the authors' `update_archive` keeps, written as in their script."""
    numbers, scores = [-1] * size, np.zeros((size, 4))
    for number, row in enumerate(rows):
        extended = np.concatenate([scores, np.array(row)[None]])
        z = extended.sum(axis=0) ** alpha
        worst = int((extended / np.where(z, z, 1)).sum(axis=1).argmin())
        if worst < size:
            scores[worst], numbers[worst] = row, number
    return sorted(number for number in numbers if number >= 0)


@given(st.lists(ROWS.filter(any), max_size=15), st.sampled_from([0.0, 0.5, 1.0]))
@FEW
def test_the_archive_keeps_whom_the_authors_script_keeps(rows, alpha):
    archive = NichesArchive(NichesOptions(archive=3, alpha=alpha))
    for number, row in enumerate(rows):
        archive.add(number, np.array(row), np.ones(4))
    assert sorted(archive.members) == scripts_archive(rows, 3, alpha)


def test_competition_keeps_who_solves_what_no_other_does():
    rows = [[1, 1, 1, 0]] * 3 + [[0, 0, 0, 1]]
    kept = {}
    for alpha in (0.0, 1.0):
        archive = NichesArchive(NichesOptions(archive=3, alpha=alpha))
        for number, row in enumerate(rows):
            archive.add(number, np.array(row, dtype=float), np.ones(4))
        kept[alpha] = archive.members
    assert 3 not in kept[0.0] and 3 in kept[1.0]


def test_attraction_draws_a_mate_that_gets_what_the_first_does_not():
    rows = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0]]
    pairs = {}
    for attraction in (True, False):
        archive = NichesArchive(NichesOptions(attraction=attraction))
        for number, row in enumerate(rows):
            archive.add(number, np.array(row, dtype=float), np.ones(4))
        pairs[attraction] = {archive.mates(np.random.default_rng(i)) for i in range(60)}
    assert all((2 in pair) and pair[0] != pair[1] for pair in pairs[True])
    assert (0, 1) in pairs[False]


def test_mates_are_drawn_even_if_no_one_solves_anything():
    archive = NichesArchive(NichesOptions())
    for number in range(2):
        archive.add(number, np.zeros(4), np.ones(4))
    assert {archive.mates(np.random.default_rng(i)) for i in range(20)} == {(0, 1), (1, 0)}


ONE, OTHER = Objective("one", "acc"), Objective("other", "acc", weight=3.0)


def two_tasks(first: float = 1.0, **more: Any) -> Scores:
    values = {"one/acc": (first, 0.0), "other/acc": (1.0, 0.0, 1.0, 0.0, float("nan"), 1.0)}
    ids = {"one": (0, 1), "other": tuple(range(6))}
    return Scores(ids, values, {"one/acc": 0.5, "other/acc": 0.5}, **more)


def test_the_documents_of_an_objective_are_worth_its_weight():
    found = shared_documents([ONE, OTHER])(two_tasks())
    assert found is not None
    scores, worth = found
    assert scores.tolist() == [1, 0, 1, 0, 1, 0, 0, 1]
    assert worth[:2].sum() * 3 == pytest.approx(worth[2:].sum())
    assert worth.mean() == pytest.approx(1)
    alone = shared_documents([OTHER])(two_tasks())
    assert alone is not None and alone[1].tolist() == [1.0] * 6


def test_what_breaks_a_constraint_or_is_estimated_does_not_count():
    assert shared_documents([ONE])(two_tasks(expected={"one/acc": Expected(0.5, 0.1)})) is None
    for least, counts in ((0.6, False), (0.4, True)):
        bounds = [Constraint("other", "acc", at_least=least)]
        assert (shared_documents([ONE], bounds)(two_tasks()) is not None) == counts


def test_a_negative_score_stops_the_search_with_a_sentence():
    with pytest.raises(SearchError, match=r"has the score -2, but .* 0 or more"):
        shared_documents([ONE])(two_tasks(-2.0))
