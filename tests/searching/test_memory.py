"""If memory runs out, batches are halved, and they stay so after a kill and a resume."""

import json
import signal

import pytest
from judging import rows_of
from search_run import evomerge, write_search

pytestmark = pytest.mark.thorough

PROGRAM = '''
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

SEARCH = {
    "objectives": [{"task": "zoo_l2_maths_mc", "metric": "acc"}],
    "evaluation": {
        "include": ["zoo:tasks"],
        "batch_size": 8,
        "search": {"documents": 24},
        "validation": {"documents": 16, "finalists": 1},
        "test": {"documents": 16},
    },
    "budget": {"candidates": 12},
}


def run_program(folder, *arguments, code: int = 0, **about) -> list[int]:
    """Run the program and return the number of rows of the largest batch of each call."""
    sizes = folder / "sizes"
    about |= {"SIZES": str(sizes), "PYTHONPATH": str(folder)}
    evomerge(*arguments, code=code, module="program", **about)
    return [int(size) for size in sizes.read_text().split()] if code == 0 else []


def test_halved_batches_are_remembered(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    file = write_search(tmp_path, **SEARCH)
    whole, run = tmp_path / "whole", tmp_path / "run"
    sizes = run_program(tmp_path, "search", file, "--run", whole, FULL="12")
    assert max(sizes[6:12]) == 8  # without the calls that try out the batches at the start
    assert max(sizes[12:]) == 4
    events = [json.loads(row) for row in rows_of(whole)]
    halved = [i for i, event in enumerate(events) if event["event"] == "memory"]
    assert [events[i]["halvings"] for i in halved] == [1]
    assert events[halved[0] + 1]["event"] == "tell"  # of the candidate for which memory ran out

    run_program(tmp_path, "search", file, "--run", run, code=-signal.SIGKILL, FULL="12", OFF="16")
    assert 12 < len(rows_of(run)) < len(rows_of(whole))
    sizes = run_program(tmp_path, "resume", run)
    assert max(sizes[6:]) == 4
    assert rows_of(run) == rows_of(whole)
