"""Searches by natural niches: widths, kills, workers, exports of merges of merges."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from member_runs import THREE_TASKS, check_export, deepest, killed_and_resumed
from scripted import OBJECTIVES, ScriptedExecutor, search, trajectory, unit
from search_run import SMALL

import evomerge
from evomerge.errors import SearchError
from evomerge.execute.protocol import Job
from evomerge.models.checkpoint import Checkpoint
from evomerge.scores import Scores
from evomerge.strategy.niches import CrossoverSpace, NichesOptions, NichesStrategy, shared_documents

pytestmark = pytest.mark.thorough

SPACE = CrossoverSpace(parents=["a", "b"], host="a", stacks={"model.layers": 2})
DOCUMENTS = 6

NICHES = {
    **THREE_TASKS,
    "base": None,
    "optimizer": {"name": "niches", "population": 4, "options": {"archive": 4}},
    "evaluation": {**THREE_TASKS["evaluation"], "search": {"documents": 12}},
    "budget": {"candidates": 20},
}


def made_up(job: Job) -> Scores:
    right = [float(unit(job.recipe.digest, job.split, i) < 0.5) for i in range(DOCUMENTS)]
    key = "task/acc"
    ids = {"task": tuple(range(DOCUMENTS))}
    return Scores(ids, {key: tuple(right)}, {key: sum(right) / DOCUMENTS})


def new(generation: int) -> NichesStrategy:
    setting = NichesOptions(archive=5)
    return NichesStrategy(SPACE, shared_documents(OBJECTIVES), setting, 2, generation)


@pytest.mark.parametrize("generation", [1, 4])
def test_a_search_does_not_depend_on_width_or_kills(tmp_path, generation):
    def run(name, width, seed, dies_after=None):
        executor = ScriptedExecutor(width, random.Random(seed), 0.1, dies_after, made_up)
        options = {"searched": SPACE, "make": lambda: new(generation), "recent": None}
        return search(tmp_path / name, executor, candidates=60, **options)

    alone = run("alone", 1, 0)
    assert any(max(item.origin.get("mates", [0])) > 2 for item in alone.candidates)
    assert trajectory(run("wide", 16, 1)) == trajectory(alone)
    for width, dies_after in ((5, 17), (3, 30)):
        with pytest.raises(SearchError, match="killed"):
            run("killed", width, width, dies_after)
    assert trajectory(run("killed", 7, 2)) == trajectory(alone)


@pytest.mark.parametrize("dies_after", [0, 2, 11])
def test_what_arrived_is_replayed_exactly(tmp_path, dies_after):
    def run(name, seed, dies_after=None):
        executor = ScriptedExecutor(6, random.Random(seed), 0.1, dies_after, made_up)
        options = {"searched": SPACE, "make": lambda: new(1), "recent": None, "order": "arrival"}
        return search(tmp_path / name, executor, candidates=40, **options)

    with pytest.raises(SearchError, match="killed"):
        run("run", 0, dies_after)
    (tmp_path / "copy").mkdir()
    for file in ("search.yaml", "journal.jsonl"):
        (tmp_path / "copy" / file).write_bytes((tmp_path / "run" / file).read_bytes())
    assert trajectory(run("run", 5)) == trajectory(run("copy", 5))


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> evomerge.Run:
    """A search in one process that was killed once, lost its members, and was resumed."""
    return killed_and_resumed(tmp_path_factory.mktemp("niches"), NICHES, 30)


def test_a_killed_search_ends_like_one_of_two_workers_that_was_not(killed, tmp_path):
    data = SMALL | NICHES | {"executor": {"kind": "processes", "workers": 2}}
    whole = evomerge.search(data, run=tmp_path / "whole")
    assert trajectory(whole.history) == trajectory(killed.history)


def test_a_merge_of_merges_is_exported_as_it_was_scored(killed, tmp_path):
    model = check_export(killed, deepest(killed, 4), tmp_path)
    card = (model / "README.md").read_text()
    assert "`member:" in card and "mergekit_config" not in card


def test_a_run_of_niches_is_a_parent_and_has_a_report(killed):
    reference = f"run:{killed.folder}"
    from evomerge.setup.runs import open_model

    assert isinstance(open_model(reference, Path.cwd()), Checkpoint)
    assert "niches" in killed.report().read_text()
    assert len(killed.candidates) == 20
