"""The files of a run folder: the journal, and notes on times, attempts and workers."""

from __future__ import annotations

import json
import math
import re
from hashlib import sha256
from pathlib import Path
from typing import Any

from attacks.targets.target import Read, Target, near_json
from hypothesis import strategies as st
from mutations import damaged, json_files, value_or_error
from run_folders import lines_of

from evomerge.run.activity import read_activity
from evomerge.run.attempts import Attempts
from evomerge.run.folder import CONFIG, JOURNAL, RunFolder
from evomerge.run.history import History
from evomerge.run.journal import HEADER, Journal, read

SCORES = {
    "documents": {"t": [0, 2]},
    "values": {"t/acc": [1.0, 0.0]},
    "aggregates": {"t/acc": 0.5},
    "expected": {"t/acc": {"value": 0.4, "error": 0.1}},
}
EVENTS = [
    HEADER,
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
    {"session": 1.8e9, "elapsed": 8, "event": "tell", "candidate": 2, "peak": {"process": 10**9}},
    {"session": 1.8e9, "elapsed": 9, "phase": "prepare", "method": "ties", "done": 1, "total": 9},
]
ATTEMPTS = [{"job": "3 search", "what": "begins"}, {"job": "3 search", "what": "ends"}]
WORKERS = {
    "workers": [
        {"number": 0, "state": "scoring", "place": "cpu", "candidates": [3], "split": "search",
         "since": 1.7e9}
    ],
    "lost": 1,
}  # fmt: skip


def chained(text: bytes) -> bytes:
    """Return the elements of a JSON list as journal lines with right numbers and checks."""
    flat = re.sub(rb"\n\s*", b" ", text).strip().removeprefix(b"[").removesuffix(b"]")
    lines, check = b"", b""
    for part in re.split(rb"(?<=}), (?={ ?\"event\")|(?<=}) ,", flat):
        body = b'{"n":%d,' % (lines.count(b"\n") + 1)
        body += part.strip().removeprefix(b"{").removesuffix(b"}")
        check = sha256(check + body).hexdigest()[:16].encode()
        lines += body + b',"check":"%b"}\n' % check
    return lines


def notes(lines) -> st.SearchStrategy[bytes]:
    """Bytes near a file with these lines of JSON, or with none of them."""
    near = st.sampled_from(lines).flatmap(json_files).map(lambda text: text.replace(b"\n", b" "))
    whole = "".join(json.dumps(line) + "\n" for line in lines).encode()
    return st.lists(near, max_size=3).map(b"\n".join) | damaged(whole)


def _empty_run(folder: Path) -> Path:
    (folder / CONFIG).write_text("{}")
    (folder / JOURNAL).touch()
    return folder


def journals(folder: Path) -> Read:
    """A journal: read, and opened by a writer."""
    path = _empty_run(folder) / JOURNAL

    def fold() -> list[Any]:
        history = History(read(path))
        return [(item.status, item.fitness, item.is_estimate) for item in history.candidates]

    def write() -> History:
        with Journal(path) as journal:
            return History(journal.events)

    def read_one(data: bytes) -> Any:
        path.write_bytes(data)
        told = value_or_error(fold)
        assert (value_or_error(write) is None) == (told is None)
        return told

    return read_one


def times(folder: Path) -> Read:
    """The times of a run; whatever the file has, numbers are finite and texts can be shown."""
    _empty_run(folder)

    def read_one(data: bytes) -> Any:
        (folder / "timings.jsonl").write_bytes(data)
        timings = RunFolder(folder).timings
        times = [timings.hours(), timings.candidates_per_hour() or 0.0]
        times += [spent for item in timings.by_candidate().values() for spent in item.values()]
        times += timings.peak().values()
        for item in timings.spent().values():
            times += [item.seconds, item.cpu_seconds or 0.0]
            assert len(item.text) < 100
        assert all(math.isfinite(number) and 0 <= number < 1e19 for number in times)
        json.dumps(timings.by_candidate())
        said = timings.preparation() or ""
        assert said.isprintable() and len(said) < 1000
        return timings

    return read_one


def attempts(folder: Path) -> Read:
    """The notes on which jobs began and ended."""

    def read_one(data: bytes) -> Any:
        (folder / "attempts.jsonl").write_bytes(data)
        found = Attempts(folder / "attempts.jsonl")
        assert 0 <= found.count("3 search") < 1000
        with found.trying("4 search"):
            pass
        assert Attempts(folder / "attempts.jsonl").count("4 search") == 0
        return found

    return read_one


def workers(folder: Path) -> Read:
    """The notes on what each worker does."""

    def read_one(data: bytes) -> Any:
        (folder / "workers.json").write_bytes(data)
        states, lost = read_activity(folder / "workers.json")
        for state in states:
            for text in (state.state, state.place, state.split):
                assert text.isprintable() and len(text) < 1000
            assert math.isfinite(state.since)
            str(state.candidates)
        str(lost)
        return states, lost

    return read_one


def _lines(notes: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(note) + "\n" for note in notes).encode()


_JOURNAL = b"".join(lines_of(EVENTS))
RUNS = {
    "journal": Target((_JOURNAL,), json_files(EVENTS).map(chained) | damaged(_JOURNAL), journals),
    "timings": Target((_lines(TIMINGS),), notes(TIMINGS), times),
    "attempts": Target((_lines(ATTEMPTS),), notes(ATTEMPTS), attempts),
    "workers": near_json(workers, WORKERS),
}
