"""Runs of any name in every command, and a budget that is in force already."""

import shutil

import pytest
from search_run import SMALL

from evomerge.__main__ import run as call
from evomerge.config.schema import parse
from evomerge.run.folder import RunFolder
from evomerge.setup.freeze import freeze
from evomerge.setup.runs import prepare, reopen
from evomerge.setup.search import run_search

pytestmark = pytest.mark.thorough


def search(folder, name, candidates, **changes):
    problem = prepare(
        parse({**SMALL, **changes, "budget": {"candidates": candidates}}, name), folder
    )
    run = RunFolder.create(folder / name, "{}", freeze(problem))
    run_search(problem, run, {})
    return run


def go_on(run, candidates):
    run_search(reopen(run), run, {"candidates": candidates})


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    return search(tmp_path_factory.mktemp("runs"), "first", 9)


def test_a_run_of_any_name_works_in_every_command(ended, tmp_path, capsys):
    run = tmp_path / "a+b #1 50%20 é;$x"
    shutil.copytree(ended.path, run)
    (tmp_path / "link").symlink_to(run)
    for name in (run, tmp_path / "link"):
        for command in (
            ["status", name],
            ["results", name, "--csv", tmp_path / "rows.csv"],
            ["report", name],
            ["resume", name, "--candidates", "22"],
            ["export", name, "--out", tmp_path / f"model of {name.name}"],
            ["merge", name / "best.yaml", "--out", tmp_path / f"merge of {name.name}"],
        ):
            assert call(list(map(str, command))) == 0
        start = {"optimizer": {"start": [f"run:{name}"]}}
        assert prepare(parse({**SMALL, **start}, "new"), tmp_path).start
    files = [tmp_path / f"{kind} of {run.name}" for kind in ("model", "merge")]
    first, second = [(file / "model.safetensors").read_bytes() for file in files]
    assert first == second


def test_a_budget_that_is_in_force_already_is_not_journaled_again(ended, tmp_path):
    """As after a kill of `search --candidates 9`, continued by `resume --candidates 9`."""
    run = RunFolder(shutil.copytree(ended.path, tmp_path / "whole"))
    before = run.journal_path.read_bytes()
    go_on(run, 9)
    assert run.journal_path.read_bytes() == before
