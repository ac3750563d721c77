"""The files of a run folder (journal, stages, timings) with any bytes."""

import json
import math
import re
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mutations import FUZZ, damaged, json_files, value_or_error, yaml_files

from evomerge.run.folder import CONFIG, JOURNAL, STAGES, RunFolder
from evomerge.run.history import History
from evomerge.run.journal import FORMAT, Journal, encode, read
from evomerge.setup.stages import run_stages

SCORES = {
    "documents": {"t": [0, 2]},
    "values": {"t/acc": [1.0, 0.0]},
    "aggregates": {"t/acc": 0.5},
    "expected": {"t/acc": {"value": 0.4, "error": 0.1}},
}
EVENTS = [
    {"event": "header", "format": FORMAT},
    {"event": "ask", "candidate": 0, "label": "a", "digest": "00", "origin": {"x": [1]}},
    {"event": "tell", "candidate": 0, "scores": SCORES, "values": [0.5]},
    {"event": "ask", "candidate": 1, "digest": "01", "generation": 0, "incumbent": 0, "known": 1},
    {"event": "ask", "candidate": 2, "digest": "00", "origin": {}, "generation": 0},
    {"event": "tell", "candidate": 1, "failure": {"stage": "merge", "reason": "NaN"}},
    {"event": "tell", "candidate": 2, "same_as": 0, "values": [0.5]},
    {"event": "complete", "candidate": 2, "scores": SCORES, "values": [0.5]},
    {"event": "score", "candidate": 0, "split": "validation", "scores": SCORES},
    {"event": "memory", "halvings": 1},
    {"event": "winner", "candidate": 0},
    {"event": "budget", "candidates": 30, "hours": None},
]
TIMINGS = [
    {"session": 1.7e9, "elapsed": 3.5, "candidate": 0, "seconds": {"merge": 0.5}},
    {"session": 1.8e9, "elapsed": 7.25, "candidate": 1, "seconds": {}},
    {"candidate": 1, "seconds": {"evaluate": 1, "merge": 2}, "cpu_seconds": {"evaluate": 1.5}},
    {"session": 1.8e9, "elapsed": 8, "phase": "prepare", "method": "ties", "done": 1, "total": 9},
]
STAGED = {
    "parents": ["zoo:language", "zoo:maths"],
    "objectives": [{"task": "zoo_maths", "metric": "exact_match"}],
    "budget": {"candidates": 3},
    "stages": [{"seed": 1, "budget": {"candidates": 4}}, {"parents": ["stage:1", "zoo:maths"]}],
    "origin": "/nowhere",
    "allow_pickle": False,
}


def lines(text: bytes) -> bytes:
    """Return the elements of a JSON list as journal lines with correct checksums."""
    flat = re.sub(rb"\n\s*", b" ", text).strip().removeprefix(b"[").removesuffix(b"]")
    parts = re.split(rb"(?<=}), (?={ ?\"event\")|(?<=}) ,", flat)
    return b"".join(b"%08x " % zlib.crc32(part) + part + b"\n" for part in parts)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    (path / CONFIG).write_text("{}")
    (path / JOURNAL).touch()
    return path


@FUZZ
@given(data=json_files(EVENTS).map(lines) | damaged(b"".join(map(encode, EVENTS))))
def test_journals(folder, data):
    path = folder / JOURNAL
    path.write_bytes(data)

    def fold():
        history = History(read(path))
        return [(item.status, item.fitness, item.is_estimate) for item in history.candidates]

    told = value_or_error(fold)

    def write():
        with Journal(path) as journal:
            return History(journal.events)

    assert (value_or_error(write) is None) == (told is None)


def test_the_journal_that_is_mutated_is_valid(folder):
    (folder / JOURNAL).write_bytes(lines(json.dumps(EVENTS).encode()))
    history = History(read(folder / JOURNAL))
    assert [item.status for item in history.candidates] == ["scored", "failed", "scored"]


@FUZZ
@given(
    data=st.lists(
        st.sampled_from(TIMINGS).flatmap(json_files).map(lambda item: item.replace(b"\n", b" ")),
        max_size=3,
    ).map(b"\n".join)
)
def test_timings_that_cannot_be_read_are_ignored(folder, data):
    (folder / "timings.jsonl").write_bytes(data)
    timings = RunFolder(folder).timings
    times = [timings.hours()]
    for item in timings.spent().values():
        times += [item.seconds, item.cpu_seconds or 0.0]
    assert all(math.isfinite(number) and number >= 0 for number in times)
    assert timings.preparation() is None or "preparing" in timings.preparation()


@FUZZ
@given(data=yaml_files(STAGED))
def test_stages(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("staged")
    (path / STAGES).write_bytes(data)
    value_or_error(lambda: run_stages(path, lambda run, problem: None))
