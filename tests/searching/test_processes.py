"""Searches whose candidates run in worker processes take the same course as inline ones."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from judging import write_judged
from search_run import SMALL, events_of, evomerge, evomerge_json, kill_when, write_search

pytestmark = pytest.mark.thorough

PATHS = SMALL | {
    "space": {"kind": "dataflow", "variant": "swaps"},
    "base": None,
    "optimizer": {"name": "cma-margin"},
    "objectives": [{"task": "zoo_l2_maths_mc", "metric": "acc"}],
    "budget": {"candidates": 16},
}


def test_two_workers_take_the_course_of_one_also_if_all_are_killed_and_one_goes_on(
    tmp_path: Path,
) -> None:
    """A generation of paths is divided among the workers."""
    inline, run = tmp_path / "inline", tmp_path / "run"
    evomerge("search", write_search(tmp_path, **PATHS), "--run", inline)
    file = write_search(tmp_path, **PATHS, executor={"kind": "processes", "workers": 2})
    killed = kill_when(["search", file, "--run", run], run / "journal.jsonl", 20, 0.0)
    assert killed == -signal.SIGKILL
    moves = ["--set", "executor.kind=inline", "--set", "executor.workers=1"]
    evomerge("resume", run, *moves)
    assert events_of(run) == events_of(inline)
    assert (run / "best.yaml").read_bytes() == (inline / "best.yaml").read_bytes()


SOURCE = '''
import os
import time

def judge(model, tokenizer, documents):
    """Mean size of the first weights; the fifth model hangs, the seventh ends the process.

    The eighth raises an exception.
    """
    spread = repr(float(next(model.parameters()).detach().abs().mean()))
    with open(os.environ["SEEN"], "a+") as file:
        file.seek(0)
        seen = file.read().split()
        print(spread, file=file)
    number = list(dict.fromkeys([*seen, spread])).index(spread) + 1
    if number == 5:
        time.sleep(600)
    if number == 7:
        os.abort()
    if number == 8:
        raise ValueError("of the eighth")
    return [float(spread)] * len(documents)

judge.documents = 12
'''


def test_a_hanging_and_a_crashing_candidate_are_rows_and_the_search_goes_on(tmp_path: Path) -> None:
    executor = {"kind": "processes", "workers": 1, "timeout": 10}
    file = write_judged(tmp_path, SOURCE, executor=executor)
    about = {"PYTHONPATH": str(tmp_path), "SEEN": str(tmp_path / "seen")}
    arguments = ("search", file, "--run", tmp_path / "run", "--candidates", "12", "--debug")
    said = evomerge(*arguments, **about).stderr
    rows = evomerge_json("results", tmp_path / "run")["candidates"]
    assert len(rows) == 12
    assert [row["failure"] for row in rows if row["failure"]] == [
        "timeout: It took longer than executor.timeout, 10 seconds.",
        "lost: 3 processes ended while this candidate was scored (by the signal SIGABRT).",
        "evaluate: Objective judging:judge (judging.py, line 21) raised ValueError: of the eighth",
    ]
    log = (tmp_path / "run" / "log.txt").read_text()
    assert f'File "{tmp_path}/judging.py", line 21, in judge' in log
    assert "\nValueError: of the eighth\n" in log
    assert "ValueError: of the eighth" in said and "line 21, in judge" in said
