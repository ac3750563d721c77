"""A fault of a candidate is one row; the search goes on and can be resumed."""

import json
import signal
from pathlib import Path

import pytest
from search_run import SPLITS, evomerge, evomerge_json, rows_of, write_judged, write_search

from evomerge.run.folder import RunFolder

FAULTS = """
import sys

from evomerge.errors import ConfigError

class Own(BaseException):
    pass

class Mute(Exception):
    def __str__(self):
        raise SystemExit("not even a message")

def throw(error):
    raise error

def deep():
    return deep()

CASES = {
    "ValueError: plain": lambda d: throw(ValueError("plain")),
    "SystemExit: 0": lambda d: sys.exit(0),
    "StopIteration": lambda d: throw(StopIteration()),
    "Own: mine": lambda d: throw(Own("mine")),
    "raised Mute": lambda d: throw(Mute()),
    "a?b": lambda d: throw(ValueError("a" + chr(0xD800) + "b")),
    "xxxx": lambda d: throw(ValueError("x" * 10_000_000)),
    "first line": lambda d: throw(ValueError("first line" + chr(10) + "second line")),
    "ConfigError: mine": lambda d: throw(ConfigError("mine")),
    "MemoryError": lambda d: throw(MemoryError()),
    "RecursionError": lambda d: deep(),
    "returned ['half',": lambda d: ["half"] * len(d),
    "1.0, nan] of score": lambda d: [1.0] * (len(d) - 1) + [float("nan")],
    "returned [1000": lambda d: [10 ** 400] * len(d),
    "returned [1.0, 1.0, 1.0] of score for 4": lambda d: [1.0] * (len(d) - 1),
    "returned <generator": lambda d: (1.0 for _ in d),
    "returned None of score": lambda d: None,
    "metrics ['1', 'b']": lambda d: {1: d, "b": d},
}
CALLS = []

def judge(model, tokenizer, documents):
    if len(documents) == 1:  # before the search
        return [0.75]
    CALLS.append(1)
    number = len(CALLS) - 4  # the first candidates are the parents and the uniform merge
    if not 0 <= number < len(CASES):
        return [0.75] * len(documents)
    return list(CASES.values())[number](documents)

judge.documents = 12
"""


def test_every_fault_of_a_function_is_one_row(tmp_path: Path) -> None:
    names: dict = {}
    exec(FAULTS, names)
    cases = list(names["CASES"])
    budget = {"candidates": 3 + len(cases) + 2}
    file = write_judged(tmp_path, FAULTS, optimizer={"name": "random"}, budget=budget)
    run = tmp_path / "run"
    said = evomerge("search", file, "--run", "run", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert "export it with" in said.stdout + said.stderr
    rows = evomerge_json("results", run)["candidates"]
    assert len(rows) == len(cases) + 5
    for case, row in zip(cases, rows[3:], strict=False):
        assert row["status"] == "failed" and row["fitness"] is None, case
        assert case in row["failure"] and "judging:judge" in row["failure"], row["failure"]
        assert "\n" not in row["failure"]
    assert "(judging.py, line 14) raised ValueError: plain" in rows[3]["failure"]
    assert all(row["fitness"] == 0.75 for row in rows[-2:])
    assert all(json.loads(line) and len(line) < 2000 for line in rows_of(run))


@pytest.mark.parametrize("executor", ["inline", pytest.param("processes", marks=pytest.mark.long)])
def test_a_function_that_always_fails_is_named_before_the_first_candidate(executor, tmp_path):
    source = (
        "def judge(model, tokenizer, documents):\n    return documents[99]\njudge.documents = 12"
    )
    file = write_judged(tmp_path, source, executor={"kind": executor})
    about = {"cwd": tmp_path, "PYTHONPATH": str(tmp_path)}
    said = evomerge("search", file, "--run", "run", code=2, **about).stderr
    assert "Objective judging:judge (judging.py, line 2) raised IndexError" in said
    assert "with one document before the search" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.thorough
def test_a_search_without_any_right_answer_says_so(tmp_path: Path) -> None:
    parents = ["zoo:maths", "zoo:facts"]
    file = write_search(tmp_path, parents=parents, budget={"candidates": 4})
    said = evomerge("search", file, "--run", tmp_path / "run").stderr
    assert said.count("warning: all baselines have the same fitness,") == 1
    assert said.count("prompt:") == said.count("target:") == 3
    assert "all baselines have the same fitness" in (tmp_path / "run" / "log.txt").read_text()


ENDING = '''
import os
import signal
import time

def judge(model, tokenizer, documents):
    """Mean size of the first weights; what happens with some models END says: NUMBER:what,..."""
    spread = repr(float(next(model.parameters()).detach().abs().mean()))
    if len(documents) == 1:  # before the search
        return [0.0]
    with open(os.environ["SEEN"], "a+") as file:
        file.seek(0)
        seen = file.read().split()
        print(spread, file=file)
    number = list(dict.fromkeys([*seen, spread])).index(spread)
    what = dict(item.split(":") for item in os.environ["END"].split(",")).get(str(number))
    if what == "raise":
        raise ValueError("cannot be judged")
    if what == "hang":
        time.sleep(600)
    if what == "abort":
        os.abort()
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    return [float(spread)] * len(documents)

judge.documents = 12
'''


@pytest.mark.thorough
def test_after_three_processes_that_ended_a_candidate_has_failed(tmp_path: Path) -> None:
    file, run, whole = write_judged(tmp_path, ENDING), tmp_path / "run", tmp_path / "whole"
    about = {"PYTHONPATH": str(tmp_path), "SEEN": str(tmp_path / "whole seen")}
    evomerge("search", file, "--run", whole, **about, END="5:raise")
    about["SEEN"] = str(tmp_path / "seen")
    evomerge("search", file, "--run", run, code=-signal.SIGKILL, **about, END="5:kill")
    evomerge("resume", run, code=-signal.SIGABRT, **about, END="5:abort")
    evomerge("resume", run, code=-signal.SIGKILL, **about, END="5:kill")
    evomerge("resume", run, **about, END="5:kill")
    rows, theirs = (evomerge_json("results", folder)["candidates"] for folder in (run, whole))
    assert rows[5]["failure"] == (
        "lost: 3 processes ended while this candidate was scored (without an error)."
    )
    assert theirs[5]["failure"].endswith("cannot be judged")
    differing = {"failure", *(key for key in rows[0] if key.startswith("seconds "))}
    alike = [[row | dict.fromkeys(differing) for row in every] for every in (rows, theirs)]
    assert alike[0] == alike[1]
    ours, others = RunFolder(run).events(), RunFolder(whole).events()
    assert sum(one != other for one, other in zip(ours, others, strict=True)) == 1


@pytest.mark.thorough
def test_a_hanging_and_a_crashing_candidate_are_rows_and_the_search_goes_on(tmp_path: Path) -> None:
    executor = {"kind": "processes", "workers": 1, "timeout": 10}
    file, run = write_judged(tmp_path, ENDING, executor=executor), tmp_path / "run"
    about = {"PYTHONPATH": str(tmp_path), "SEEN": str(tmp_path / "seen")}
    said = evomerge("search", file, "--run", run, "--debug", **about, END="4:hang,6:abort,7:raise")
    rows = evomerge_json("results", run)["candidates"]
    assert len(rows) == 12
    assert [row["failure"] for row in rows if row["failure"]] == [
        "timeout: It took longer than executor.timeout, 10 seconds.",
        "lost: 3 processes ended while this candidate was scored (by the signal SIGABRT).",
        "evaluate: Objective judging:judge (judging.py, line 18) raised ValueError: "
        "cannot be judged",
    ]
    log = (run / "log.txt").read_text()
    assert f'File "{tmp_path}/judging.py", line 18, in judge' in log
    assert "\nValueError: cannot be judged\n" in log
    assert "ValueError: cannot be judged" in said.stderr and "line 18, in judge" in said.stderr


HALVED = '''
"""Runs evomerge; its memory runs out at the call FULL, and it is killed at the call OFF."""
import os
import signal
import sys

import torch

from evomerge.evaluation.inference import forward, likelihood

score, calls = likelihood.score, []

def stand_in(model, batches, continuations, gather):
    calls.append(max(len(batch.tokens) for batch in batches))
    if len(calls) == int(os.environ.get("FULL", 0)):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    if len(calls) == int(os.environ.get("OFF", 0)):
        os.kill(os.getpid(), signal.SIGKILL)
    return score(model, batches, continuations, gather)

forward.likelihood.score = stand_in

from evomerge.__main__ import run

code = run(sys.argv[1:])
with open(os.environ["SIZES"], "w") as file:
    file.write(" ".join(map(str, calls)))
sys.exit(code)
'''


@pytest.mark.thorough
def test_batches_that_were_halved_stay_so_after_a_kill(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(HALVED)
    evaluation = {"include": ["zoo:tasks"], "batch_size": 8, **SPLITS, "search": {"documents": 24}}
    objectives = [{"task": "zoo_l2_maths_mc", "metric": "acc"}]
    file = write_search(
        tmp_path, objectives=objectives, evaluation=evaluation, budget={"candidates": 12}
    )
    whole, run, sizes = tmp_path / "whole", tmp_path / "run", tmp_path / "sizes"
    about = {"module": "program", "SIZES": str(sizes), "PYTHONPATH": str(tmp_path)}

    def largest(start: int, stop: int | None = None) -> int:
        return max(int(size) for size in sizes.read_text().split()[start:stop])

    evomerge("search", file, "--run", whole, FULL="12", **about)
    assert largest(6, 12) == 8  # without the calls that try out the batches at the start
    assert largest(12) == 4
    events = [json.loads(row) for row in rows_of(whole)]
    (halved,) = [i for i, event in enumerate(events) if event["event"] == "memory"]
    assert events[halved]["halvings"] == 1
    assert events[halved + 1]["event"] == "tell"  # of the candidate for which memory ran out
    killed = {"code": -signal.SIGKILL, "FULL": "12", "OFF": "16"}
    evomerge("search", file, "--run", run, **killed, **about)
    assert 12 < len(rows_of(run)) < len(rows_of(whole))
    evomerge("resume", run, **about)
    assert largest(6) == 4
    assert rows_of(run) == rows_of(whole)
