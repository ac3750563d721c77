"""`budget.patience` and `budget.target`: the search ends there, and `resume` says so."""

import random
from pathlib import Path

import pytest
from run_folders import asked, scores, told, write_run
from scripted import OBJECTIVES, ScriptedExecutor, search

from evomerge.errors import RunFolderError
from evomerge.problem.runs import check_budget
from evomerge.run.ranking import ParetoFront, WeightedSum, unimproved
from evomerge.scores import Constraint, Objective

ONE = WeightedSum(OBJECTIVES)
TWO = ParetoFront((*OBJECTIVES, Objective("task", "size", higher_is_better=False)))
OPTIONS = {"candidates": 400}


def run(folder: Path, **options):
    return search(folder, ScriptedExecutor(1, random.Random(0), 0.1), **OPTIONS | options)


@pytest.mark.parametrize(
    ("optimizer", "order", "ranking"),
    [
        ("cma", "generation", ONE),
        ("nsga2", "generation", TWO),
        ("nevergrad:DE", "generation", ONE),
        ("random", "arrival", ONE),
    ],
)
def test_it_ends_as_soon_as_so_many_bring_nothing(tmp_path, optimizer, order, ranking):
    options = {"optimizer": optimizer, "order": order, "ranking": ranking, "patience": 25}
    candidates = run(tmp_path / "run", **options).candidates
    counts = [
        unimproved(ranking.incumbents(candidates[:count]), candidates[:count])
        for count in range(len(candidates) + 1)
    ]
    assert len(candidates) < 400 and counts[-1] >= 25
    if order == "arrival":
        assert counts[-1] == 25 and max(counts[:-1]) < 25
    else:
        generations = [item.generation for item in candidates]
        starts = [generations.index(number) for number in range(1, generations[-1] + 1)]
        assert all(counts[start] < 25 for start in starts)


@pytest.mark.parametrize(("bound", "low", "high"), [("patience", 10, 40), ("target", 0.5, 1.0)])
def test_with_a_larger_bound_a_search_goes_on_as_if_it_had_always_had_it(
    tmp_path, bound, low, high
):
    short = run(tmp_path / "run", **{bound: low})
    raised = run(tmp_path / "run", **{bound: high})
    whole = run(tmp_path / "whole", **{bound: high})
    assert len(short.candidates) < len(raised.candidates)
    assert [item.digest for item in raised.candidates] == [item.digest for item in whole.candidates]


def test_a_target_is_not_reached_by_what_breaks_a_constraint(tmp_path):
    never = Constraint("task", "size", at_most=-1.0)  # no candidate keeps it
    free, bound = (
        run(
            tmp_path / f"{len(rules)}",
            target=0.9,
            candidates=30,
            ranking=WeightedSum(OBJECTIVES, rules),
        )
        for rules in ((), (never,))
    )
    assert len(free.candidates) < len(bound.candidates) == 30
    assert all(max(item.fitness or 0 for item in of.candidates) >= 0.9 for of in (free, bound))


@pytest.mark.parametrize(
    ("budget", "fitness", "refused", "sentence", "enough"),
    [
        (
            {"candidates": 100, "patience": 5},
            3,
            [{"candidates": 50}, {"hours": 9.0}, {"patience": 5}],
            r"reached budget\.patience \(5\).* --patience",
            {"patience": 6},
        ),
        (
            {"candidates": 100, "target": 0.3},
            9,
            [{"candidates": 50}],
            r"reached budget\.target \(0\.3\).* --target",
            {"candidates": 50, "target": 0.4},
        ),
        (
            {"candidates": 6},
            3,
            [{"patience": 50}],
            r"reached budget\.candidates \(6\).* --candidates",
            {"candidates": 7},
        ),
        (
            {"candidates": 100, "hours": 0.5},
            3,
            [{"candidates": 50}],
            r"reached budget\.hours \(0\.5\).* --hours",
            {"hours": 2.0},
        ),
    ],
)
def test_resume_names_the_bound_that_has_ended_the_search(
    tmp_path, budget, fitness, refused, sentence, enough
):
    """A larger number for another bound changes nothing, and so it is refused."""
    events = [asked(0, "zoo:language"), told(0, scores(9))]
    for number in range(1, 6):
        events += [asked(number, genome=[0.5, 1.0]), told(number, scores(fitness - 1))]
    made = write_run(tmp_path / "run", events, budget=budget)
    made.timings.note({"session": 1.0, "elapsed": 3600.0})
    for given in refused:
        with pytest.raises(RunFolderError, match=sentence):
            check_budget(made, given)
    check_budget(made, {})
    check_budget(made, enough)


def test_resume_takes_a_larger_number_than_the_one_that_has_cut_off_a_generation(tmp_path):
    events = [asked(0, "zoo:language"), told(0, scores(9))]
    made = write_run(tmp_path / "run", events, budget={"candidates": 1, "target": 0.3})
    check_budget(made, {"candidates": 2})
    for given in ({"candidates": 1}, {"hours": 9.0}):
        with pytest.raises(RunFolderError, match="--"):
            check_budget(made, given)
    arrival = {"budget": {"candidates": 1, "target": 0.3}, "executor": {"order": "arrival"}}
    with pytest.raises(RunFolderError, match="--target"):
        check_budget(write_run(tmp_path / "arrival", events, **arrival), {"candidates": 2})
