"""A fault of an objective function makes its candidate fail; the search goes on."""

import json

from judging import rows_of, write_judged
from search_run import evomerge, evomerge_json

SOURCE = """
import multiprocessing
import sys

from evomerge.errors import CheckpointError, ConfigError

class Own(BaseException):
    pass

class Mute(Exception):
    def __str__(self):
        raise SystemExit("not even a message")

def throw(error):
    raise error

def deep():
    return deep()

def in_processes(documents):
    context = multiprocessing.get_context("fork")
    process = context.Process(target=len, args=("abc",))
    process.start()
    process.join()
    return [0.5 if process.exitcode == 0 else None] * len(documents)

CASES = {
    "ValueError: plain": lambda d: throw(ValueError("plain")),
    "SystemExit: 3": lambda d: throw(SystemExit(3)),
    "SystemExit: 0": lambda d: sys.exit(0),
    "GeneratorExit": lambda d: throw(GeneratorExit()),
    "StopIteration": lambda d: throw(StopIteration()),
    "Own: mine": lambda d: throw(Own("mine")),
    "raised Mute": lambda d: throw(Mute()),
    "a?b": lambda d: throw(ValueError("a" + chr(0xD800) + "b")),
    "xxxx": lambda d: throw(ValueError("x" * 10_000_000)),
    "first line": lambda d: throw(ValueError("first line" + chr(10) + "second line")),
    "FileNotFoundError": lambda d: open("/nowhere/at/all"),
    "CheckpointError: mine": lambda d: throw(CheckpointError("mine")),
    "ConfigError: mine": lambda d: throw(ConfigError("mine")),
    "MemoryError": lambda d: throw(MemoryError()),
    "RecursionError": lambda d: deep(),
    "returned '0.5'": lambda d: ["0.5"] * len(d),
    "returned True": lambda d: [True] * len(d),
    "returned None": lambda d: [None] * len(d),
    "returned nan": lambda d: [1.0] * (len(d) - 1) + [float("nan")],
    "returned inf": lambda d: [float("inf")] * len(d),
    "returned 1000": lambda d: [10 ** 400] * len(d),
    "3 values of score for 4": lambda d: [1.0] * (len(d) - 1),
    "a generator of score": lambda d: (1.0 for _ in d),
    "a str of score": lambda d: "1234",
    "a float of score": lambda d: 1.0,
    "a NoneType of score": lambda d: None,
    "the metrics 1, b": lambda d: {1: d, "b": d},
    "in processes": in_processes,
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


def test_a_function_that_always_fails_is_named_before_the_first_candidate(tmp_path):
    source = (
        "def judge(model, tokenizer, documents):\n    return documents[99]\njudge.documents = 12"
    )
    file = write_judged(tmp_path, source)
    about = {"cwd": tmp_path, "PYTHONPATH": str(tmp_path)}
    for executor in ("inline", "processes"):
        kind = f"executor.kind={executor}"
        said = evomerge("search", file, "--run", "run", "--set", kind, code=2, **about).stderr
        assert "Objective judging:judge (judging.py, line 2) raised IndexError" in said
        assert "with one document before the search" in said
        assert not (tmp_path / "run").exists()


def test_every_fault_is_one_row(tmp_path):
    names: dict = {}
    exec(SOURCE, names)
    cases = list(names["CASES"])
    file = write_judged(
        tmp_path,
        SOURCE,
        optimizer={"name": "random"},
        budget={"candidates": 3 + len(cases) + 2},
    )
    run = tmp_path / "run"
    said = evomerge("search", file, "--run", "run", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert "export it with" in said.stdout + said.stderr
    rows = evomerge_json("results", run)["candidates"]
    assert len(rows) == len(cases) + 5
    scores = {"in processes": 0.5}
    for case, row in zip(cases, rows[3:], strict=False):
        if case in scores:
            assert row["fitness"] == scores[case], case
        else:
            assert row["status"] == "failed", case
            assert case in row["failure"], row["failure"]
            assert "judging:judge" in row["failure"], row["failure"]
            assert "\n" not in row["failure"]
    assert "(judging.py, line 15) raised ValueError: plain" in rows[3]["failure"]
    assert all(row["fitness"] == 0.75 for row in rows[-2:])
    assert all(json.loads(line) and len(line) < 2000 for line in rows_of(run))
    before = rows_of(run)
    evomerge("resume", run, PYTHONPATH=str(tmp_path))
    assert rows_of(run) == before
