"""`budget.patience` and `budget.target`: the search ends there, and `resume` says so."""

from __future__ import annotations

import random

import pytest
from run_folders import asked, scores, told, write_run
from scripted import OBJECTIVES, ScriptedExecutor, search, trajectory

from evomerge.errors import RunFolderError, SearchError
from evomerge.scores import Objective
from evomerge.searching.ranking import ParetoFront, WeightedSum, unimproved
from evomerge.setup.runs import check_budget

ONE = WeightedSum(OBJECTIVES)
TWO = ParetoFront((*OBJECTIVES, Objective("task", "size", higher_is_better=False)))
OPTIONS = {"candidates": 400, "recent": None}


def executor(width: int, seed: int, dies_after: int | None = None) -> ScriptedExecutor:
    return ScriptedExecutor(width, random.Random(seed), 0.1, dies_after)


def at(history, ranking, count: int) -> int:
    """Return how many of the first candidates came after the best of them."""
    first = history.candidates[:count]
    return unimproved(ranking.incumbents(first), first)


@pytest.mark.parametrize(
    ("optimizer", "ranking"), [("cma", ONE), ("nsga2", TWO), ("nevergrad:DE", ONE)]
)
def test_it_ends_with_the_first_generation_that_brings_the_count_to_it(
    tmp_path, optimizer, ranking
):
    options = OPTIONS | {"optimizer": optimizer, "ranking": ranking, "patience": 25}
    alone = search(tmp_path / "alone", executor(1, 0), **options)
    count = len(alone.candidates)
    last = alone.candidates[-1].generation
    generations = [item.generation for item in alone.candidates]
    assert at(alone, ranking, count) >= 25
    for generation in range(1, last + 1):
        assert at(alone, ranking, generations.index(generation)) < 25
    assert trajectory(search(tmp_path / "wide", executor(16, 1), **options)) == trajectory(alone)
    with pytest.raises(SearchError, match="killed"):
        search(tmp_path / "killed", executor(5, 2, dies_after=21), **options)
    assert trajectory(search(tmp_path / "killed", executor(3, 3), **options)) == trajectory(alone)


def test_without_generations_it_ends_at_the_count(tmp_path):
    options = OPTIONS | {"optimizer": "random", "order": "arrival", "patience": 12}
    history = search(tmp_path / "run", executor(1, 0), **options)
    count = len(history.candidates)
    assert count < 400
    assert at(history, ONE, count) == 12
    assert all(at(history, ONE, fewer) < 12 for fewer in range(count))


@pytest.mark.parametrize(("bound", "low", "high"), [("patience", 10, 40), ("target", 0.5, 1.0)])
def test_with_a_larger_bound_a_search_goes_on_as_if_it_had_always_had_it(
    tmp_path, bound, low, high
):
    short = search(tmp_path / "run", executor(2, 0), **{bound: low}, **OPTIONS)
    raised = search(tmp_path / "run", executor(2, 1), **{bound: high}, **OPTIONS)
    whole = search(tmp_path / "whole", executor(2, 2), **{bound: high}, **OPTIONS)
    assert len(short.candidates) < len(raised.candidates)
    assert [item.digest for item in raised.candidates] == [item.digest for item in whole.candidates]


def test_resume_says_that_a_larger_patience_is_needed(tmp_path):
    events = [asked(0, "zoo:language"), told(0, scores(9))]
    for number in range(1, 6):
        events += [asked(number, genome=[0.5, 1.0]), told(number, scores(3))]
    budget = {"candidates": 100, "patience": 5}
    run = write_run(tmp_path / "run", events, budget=budget)
    for given in ({"candidates": 50}, {"hours": 9.0}, {"patience": 5}):
        with pytest.raises(RunFolderError, match=r"for 5 candidates, .* after 5 .*--patience"):
            check_budget(run, given)
    check_budget(run, {})
    check_budget(run, {"patience": 6})


@pytest.mark.parametrize(
    ("budget", "given", "sentence", "enough"),
    [
        (
            {"target": 0.3},
            {"candidates": 50},
            r"Candidate 0 of .* reached 0\.3 \(budget\.target\).* --target",
            {"candidates": 50, "target": 0.4},
        ),
        (
            {"candidates": 2},
            {"patience": 50},
            r"has 2 candidates, .* ends after 2 \(budget\.candidates\).* --candidates",
            {"candidates": 3},
        ),
        (
            {"hours": 0.5},
            {"candidates": 50},
            r"taken 1\.00 hours, .* ends after 0\.5 \(budget\.hours\).* --hours",
            {"hours": 2.0},
        ),
    ],
)
def test_resume_names_the_bound_that_has_ended_the_search(
    tmp_path, budget, given, sentence, enough
):
    """A larger number for another bound changes nothing, and so it is refused."""
    events = [asked(0, "zoo:language"), told(0, scores(9))]
    events += [asked(1, genome=[0.5, 1.0]), told(1, scores(3))]
    run = write_run(tmp_path / "run", events, budget=budget)
    run.timings.note({"session": 1.0, "elapsed": 3600.0})
    with pytest.raises(RunFolderError, match=sentence):
        check_budget(run, given)
    check_budget(run, {})
    check_budget(run, enough)
    check_budget(run, budget if "candidates" in budget else {})


def test_resume_takes_a_larger_number_than_the_one_that_has_cut_off_a_generation(tmp_path):
    events = [asked(0, "zoo:language"), told(0, scores(9))]
    run = write_run(tmp_path / "run", events, budget={"candidates": 1, "target": 0.3})
    check_budget(run, {"candidates": 2})
    for given in ({"candidates": 1}, {"hours": 9.0}):
        with pytest.raises(RunFolderError, match="--"):
            check_budget(run, given)
    arrival = {"budget": {"candidates": 1, "target": 0.3}, "executor": {"order": "arrival"}}
    with pytest.raises(RunFolderError, match="--target"):
        check_budget(write_run(tmp_path / "arrival", events, **arrival), {"candidates": 2})


@pytest.mark.parametrize(
    "bound", [{"target": 0.8}, {"target": 0.9}, {"patience": 4, "optimizer": "nevergrad:DE"}]
)
def test_a_generation_that_the_budget_cut_off_is_asked_for_to_its_end(tmp_path, bound):
    """Its first outcomes may reach a bound; with a larger budget they would not have been known."""
    options = {**OPTIONS, **bound}
    whole = search(tmp_path / "whole", executor(1, 0), **options)
    for count in range(1, len(whole.candidates)):
        folder = tmp_path / f"{count}"
        assert len(search(folder, executor(1, 0), **{**options, "candidates": count}).told) == count
        raised = search(folder, executor(1, 0), **options)
        assert [item.digest for item in raised.candidates] == [i.digest for i in whole.candidates]
