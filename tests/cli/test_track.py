"""`evomerge search --track`: real searches, real trackers, no network."""

import json
import subprocess
import sys

import pytest
from search_run import SMALL, environment, evomerge, write_search
from tracker_runs import trackio_runs, wandb_runs

from evomerge.run.folder import RunFolder
from evomerge.run.history import History


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tracked")


@pytest.fixture(scope="module")
def file(folder):
    evaluation = SMALL["evaluation"] | {"threads": 1}
    return write_search(folder, budget={"candidates": 9}, evaluation=evaluation)


def test_a_search_that_is_tracked_is_the_one_that_is_not(folder, file, monkeypatch):
    pytest.importorskip("trackio")
    pytest.importorskip("wandb")
    for name in ("WANDB_MODE", "WANDB_API_KEY", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TRACKIO_DIR", str(folder / "trackio"))
    monkeypatch.setenv("WANDB_DIR", str(folder))
    alone = evomerge("search", file, "--run", folder / "alone").stdout
    for name in ("trackio", "wandb"):
        tracked = evomerge("search", file, "--run", folder / name, "--track", name).stdout
        assert tracked == alone != ""
        journals = [(folder / run / "journal.jsonl").read_bytes() for run in (name, "alone")]
        assert journals[0] == journals[1]
    history = History(RunFolder(folder / "alone").events())
    config = RunFolder(folder / "alone").manifest()["config"]
    for (logged,) in (trackio_runs("evomerge"), wandb_runs(folder / "wandb")):
        assert logged.config == config and logged.name in ("trackio", "wandb")
        steps = [step for step in logged.steps if "candidate" in step]
        assert [step["fitness"] for step in steps] == [item.fitness for item in history.candidates]
        assert all(step["seconds/evaluate"] > 0 for step in steps)
        assert logged.summary["winner"] == history.winner.number
        key = "test/zoo_l2_maths/exact_match"
        test = history.winner.scores("test").aggregates[key.removeprefix("test/")]
        assert logged.summary[key] == test


def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_made(folder, file):
    (folder / "wandb").mkdir(exist_ok=True)  # such a folder must not pass for the package
    arguments = ["search", str(file), "--run", "new", "--track", "wandb"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, json.dumps(arguments)],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "`pip install 'evomerge[wandb]'`" in done.stderr and done.stderr.count("\n") == 1
    assert not (folder / "new").exists()


WITHOUT = """
import json, sys
from importlib.machinery import PathFinder
from evomerge.__main__ import main

class Hiding:
    def find_spec(name, path=None, target=None):
        return PathFinder.find_spec(name, [""]) if name == "wandb" else None

sys.meta_path.insert(0, Hiding)
sys.argv[1:] = json.loads(sys.argv[1])
main()
"""
