"""`evomerge search --track`: real searches, real trackers, no network."""

import json
import struct
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from search_run import SMALL, environment, evomerge, write_search

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


@dataclass
class Logged:
    """A run of a tracker."""

    id: str = ""
    name: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)


def wandb_runs(folder: Path) -> list[Logged]:
    """Return the offline runs of wandb in a folder, the oldest one first."""
    return [_wandb_run(path) for path in sorted(folder.glob("offline-run-*/*.wandb"))]


def _wandb_run(path: Path) -> Logged:
    from wandb.proto.wandb_internal_pb2 import Record

    run = Logged()
    for data in _records(path.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.id, run.name = record.run.run_id, record.run.display_name
            config = {item.key: json.loads(item.value_json) for item in record.run.config.update}
            run.config = {key: value for key, value in config.items() if key != "_wandb"}
        elif kind == "history":
            items = ((item.key or "/".join(item.nested_key), item) for item in record.history.item)
            run.steps.append({key: json.loads(item.value_json) for key, item in items})
        elif kind == "summary":
            items = ((item.key or item.nested_key[0], item) for item in record.summary.update)
            run.summary |= {key: json.loads(item.value_json) for key, item in items}
    return run


def _records(data: bytes):
    """Yield the records of a file in LevelDB's log format, behind wandb's seven bytes."""
    position, parts = 7, b""
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:  # what is left of a block holds no header
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            yield parts
            parts = b""


def trackio_runs(project: str) -> list[Logged]:
    """Return the runs of a project in trackio's folder, read by another process."""
    done = subprocess.run(
        [sys.executable, "-c", READ_TRACKIO, project], capture_output=True, text=True, check=True
    )
    found: list[Logged] = []
    for run in json.loads(done.stdout):
        number, name, given, logs = run
        steps = [item for item in logs if "candidate" in item]
        summary = {key: item[key] for item in logs if "winner" in item for key in item}
        config = {key: value for key, value in given.items() if key[0] != "_"}
        found.append(Logged(number, name, config, steps, summary))
    return found


READ_TRACKIO = """
import json, sys
import trackio
from trackio.sqlite_storage import SQLiteStorage
name = sys.argv[1]
runs = [
    (run.id, run.name, run.config, SQLiteStorage.get_logs(name, run.name))
    for run in trackio.Api().runs(name)
]
json.dump(runs, sys.stdout)
"""
