"""Searches by CycleQD: widths, kills, exports of merges of merges, archives in reports."""

from __future__ import annotations

import random

import pytest
from evomerge_research.archive import Grid
from evomerge_research.cycleqd import CycleQDSetting, CycleQDStrategy, TaskVectorSpace
from member_runs import THREE_TASKS, check_export, deepest, killed_and_resumed
from scripted import ScriptedExecutor, search, trajectory, unit
from search_run import SMALL

import evomerge
from evomerge.errors import SearchError
from evomerge.execute.protocol import Job
from evomerge.scores import Objective, Scores
from evomerge.searching.ranking import WeightedSum

pytestmark = pytest.mark.thorough

SPACE = TaskVectorSpace(base="base", parents=["a", "b"], host="base", stacks={"model.layers": 2})
OBJECTIVES = (Objective("task", "acc"), Objective("task", "f1"))

CYCLEQD = {
    **THREE_TASKS,
    "optimizer": {
        "name": "cycleqd",
        "population": 3,
        "options": {"bins": 6, "aggregate": 6, "mutation": 0.3},
    },
    "budget": {"candidates": 16},
}


def made_up(job: Job) -> Scores:
    found = {item.key: unit(job.recipe.digest, item.key) for item in OBJECTIVES}
    return Scores({"task": (0,)}, {}, found)


@pytest.mark.parametrize("generation", [1, 4])
def test_a_search_does_not_depend_on_width_or_kills(tmp_path, generation):
    setting = CycleQDSetting(aggregate=7, generation=generation)

    def new() -> CycleQDStrategy:
        return CycleQDStrategy(SPACE, OBJECTIVES, (), Grid.of(OBJECTIVES, 5, {}), setting, seed=2)

    def run(name, width, seed, dies_after=None):
        executor = ScriptedExecutor(width, random.Random(seed), 0.1, dies_after, made_up)
        options = {"searched": SPACE, "make": new, "recent": None}
        return search(
            tmp_path / name, executor, candidates=60, ranking=WeightedSum(OBJECTIVES), **options
        )

    alone = run("alone", 1, 0)
    assert any(max(item.origin.get("mates", [0])) > 2 for item in alone.candidates)
    for width in (4, 32):
        assert trajectory(run(f"wide {width}", width, 1)) == trajectory(alone)
    for width, dies_after in ((5, 17), (3, 30)):
        with pytest.raises(SearchError, match="killed"):
            run("killed", width, width, dies_after)
    assert trajectory(run("killed", 7, 2)) == trajectory(alone)


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> evomerge.Run:
    """A search in one process that was killed once, lost its members, and was resumed."""
    return killed_and_resumed(tmp_path_factory.mktemp("cycleqd"), CYCLEQD, 22)


def test_a_killed_search_ends_like_one_that_was_not(killed, tmp_path):
    whole = evomerge.search(SMALL | CYCLEQD, run=tmp_path / "whole")
    assert trajectory(whole.history) == trajectory(killed.history)


def test_a_mutated_merge_of_merges_is_exported_as_it_was_scored(killed, tmp_path):
    check_export(killed, deepest(killed, 3), tmp_path)
