"""An error that is not a candidate's fault stops the search with one sentence; `resume` goes on."""

import shutil
import subprocess

import pytest
from judging import rows_of, write_judged
from search_run import evomerge, evomerge_json

from evomerge import zoo
from evomerge.run.attempts import Attempts

pytestmark = pytest.mark.thorough

SOURCE = '''
import os
import resource
import shutil
import torch

CALLS = []
if "ROOM" in os.environ:  # no file gets larger than so many bytes
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(os.environ["ROOM"]),) * 2)

def judge(model, tokenizer, documents):
    """Mean size of the first weights; the sixth call moves a parent away and ends the search."""
    spread = float(next(model.parameters()).detach().abs().mean())
    if len(documents) == 1:  # before the search
        return [spread]
    CALLS.append(spread)
    if len(CALLS) == 6 and "PARENT" in os.environ:
        shutil.move(os.environ["PARENT"], os.environ["PARENT"] + ".away")
        raise KeyboardInterrupt
    if "BROKEN" in os.environ:
        raise ValueError("the judge is away")
    if "DEVICE" in os.environ and len(CALLS) == 6:
        raise RuntimeError("CUDA error: device-side assert triggered")
    return [spread] * len(documents)

judge.documents = 12
'''


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    file = write_judged(folder, SOURCE)
    evomerge("search", file, "--run", folder / "run", PYTHONPATH=str(folder))
    return folder / "run"


def said(done: subprocess.CompletedProcess) -> str:
    """Return the last line that a command printed; check that it is an error in one sentence."""
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("evomerge: "), done.stderr
    assert "Traceback" not in done.stderr
    return line


def test_a_search_does_not_go_on_without_a_parent(tmp_path):
    parent = tmp_path / "maths"
    shutil.copytree(zoo.path("maths"), parent)
    changes = {"parents": ["zoo:language", str(parent)]}
    file = write_judged(tmp_path, SOURCE, **changes)
    about = {"PYTHONPATH": str(tmp_path)}
    evomerge("search", file, "--run", tmp_path / "whole", **about)
    run = tmp_path / "run"
    evomerge("search", file, "--run", run, code=130, **about, PARENT=str(parent))
    assert str(parent) in said(evomerge("resume", run, code=2, **about))
    rows = rows_of(tmp_path / "whole")
    assert rows_of(run) == rows[: len(rows_of(run))]
    assert not any(b'"failure"' in row for row in rows_of(run))
    shutil.move(f"{parent}.away", parent)
    evomerge("resume", run, **about)
    assert rows_of(run) == rows


def test_a_full_disk_is_one_sentence(unbroken, tmp_path):
    run = tmp_path / "run"
    room = (unbroken / "journal.jsonl").stat().st_size // 2
    file, about = write_judged(tmp_path, SOURCE), {"PYTHONPATH": str(tmp_path)}
    done = evomerge("search", file, "--run", run, code=1, **about, ROOM=str(room))
    assert f"`evomerge resume {run}`" in said(done)
    assert (run / "journal.jsonl").stat().st_size <= room
    evomerge("resume", run, **about)
    assert rows_of(run) == rows_of(unbroken)


def test_a_failed_device_stops_the_search_and_counts_as_an_attempt(unbroken, tmp_path):
    about = {"PYTHONPATH": str(tmp_path)}
    run = tmp_path / "run"
    file = write_judged(tmp_path, SOURCE)
    done = evomerge("search", file, "--run", run, code=1, **about, DEVICE="1")
    assert "The device failed" in said(done)
    assert "candidate 5 (CUDA error: device-side assert triggered)" in said(done)
    tried = Attempts(run / "attempts.jsonl")
    assert [tried.count(f"{number} search") for number in range(7)] == [0, 0, 0, 0, 0, 1, 0]
    evomerge("resume", run, **about)
    assert rows_of(run) == rows_of(unbroken)


def test_ten_equal_failures_stop_the_search(unbroken, tmp_path):
    about = {"PYTHONPATH": str(tmp_path)}
    run = tmp_path / "run"
    file = write_judged(tmp_path, SOURCE)
    done = evomerge("search", file, "--run", run, code=1, **about, BROKEN="1")
    line = said(done)
    assert "The last 10 candidates failed in the same way" in line
    assert "the judge is away" in line
    assert "`evomerge resume`" in line
    assert evomerge_json("status", run)["failed"] == 10
    evomerge("resume", run, **about)
    rows = evomerge_json("results", run)["candidates"]
    assert [row["status"] for row in rows] == ["failed"] * 10 + ["scored"] * 2
