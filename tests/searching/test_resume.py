"""A search in another Python, with a raised budget, resumed at its end, and its estimates."""

import subprocess
import sys

import pytest
from killed import searched
from search_run import SMALL, command, environment, evomerge, evomerge_json, write_search

FILES = ("journal.jsonl", "best.yaml", "search.yaml")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A run by a new Python, which has another order of sets of strings than the forked ones."""
    folder = tmp_path_factory.mktemp("unbroken")
    begun = command("search", write_search(folder), "--run", folder / "run")
    done = subprocess.run(begun, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "run"


def test_a_search_in_this_process_is_the_same(unbroken, tmp_path):
    searched(write_search(tmp_path), tmp_path / "run")
    for name in FILES:
        assert (tmp_path / "run" / name).read_bytes() == (unbroken / name).read_bytes(), name


def test_a_raised_budget_continues_the_same_trajectory(unbroken, tmp_path):
    run = tmp_path / "run"
    evomerge("search", write_search(tmp_path), "--run", run, "--candidates", "9")
    evomerge("resume", run, "--candidates", "22")
    ours = evomerge_json("results", run)["candidates"]
    theirs = evomerge_json("results", unbroken)["candidates"]
    assert [row["digest"] for row in ours] == [row["digest"] for row in theirs]
    assert [row["fitness"] for row in ours] == [row["fitness"] for row in theirs]
    status = evomerge_json("status", run)
    assert status["state"] == "done"
    assert status["candidates"] == 22


def test_resuming_a_finished_run_loads_neither_model_nor_tasks(unbroken):
    code = (
        "import sys; from evomerge.__main__ import run; "
        f"run(['resume', {str(unbroken)!r}]); "
        "sys.exit(' '.join({'lm_eval', 'nevergrad', 'transformers'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, done.stderr
    assert "the winner is candidate" in done.stderr


def test_parents_and_uniform_come_first(unbroken):
    rows = evomerge_json("results", unbroken)["candidates"]
    assert [row["origin"] for row in rows[:3]] == ["zoo:language", "zoo:maths", "uniform"]
    assert len(rows) == 22


@pytest.mark.thorough
def test_estimates_never_lead(tmp_path):
    racing = {"racing": {"enabled": True, "minimum": 6, "confidence": 0.9}}
    file = write_search(tmp_path, evaluation=SMALL["evaluation"] | racing)
    searched(file, tmp_path / "run")
    rows = evomerge_json("results", tmp_path / "run")["candidates"]
    estimates = [row for row in rows if row["error"] is not None]
    assert estimates and all(row["documents"] < 24 and row["error"] > 0 for row in estimates)
    assert all(row["documents"] == 24 for row in rows if row["error"] is None)
    assert all(row["origin"] == "optimizer" for row in estimates)
    validated = [row for row in rows if row["validation zoo_l2_maths/exact_match"] is not None]
    assert all(row["error"] is None for row in validated)
    assert evomerge_json("status", tmp_path / "run")["estimated"] == len(estimates)
    best = max(row["fitness"] for row in rows if row["error"] is None)
    assert all(row["fitness"] <= best for row in estimates)
