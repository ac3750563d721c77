"""The time of the optimizer is noted beside the journal, with the next outcome."""

import json
import time

import pytest
from search_run import SMALL

from evomerge.run.folder import RunFolder
from evomerge.run.journal import Journal
from evomerge.run.logbook import Logbook
from evomerge.scores import Failure


def lines_of(run):
    text = (run.path / "timings.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def work(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def test_the_time_of_the_optimizer_is_noted_once_and_with_no_candidate(tmp_path):
    run, told = RunFolder.create(tmp_path / "run", json.dumps(SMALL), {"config": SMALL}), []
    failure = Failure("merge", "", seconds={"merge": 1.0}, cpu_seconds={"merge": 2.0})
    with Journal(run.journal_path) as journal:
        book = Logbook(run, journal, [lambda history, event: told.append(event)])
        with book.proposing():
            work(0.02)
            with book.proposing():
                work(0.02)
        for number in range(2):
            book.write({"event": "ask", "candidate": number, "digest": "d", "origin": {}})
        for number in range(2):
            event = {
                "event": "tell",
                "candidate": number,
                "failure": {"stage": "merge", "reason": ""},
            }
            book.write(event, failure)
    (first, second) = (line for line in lines_of(run) if line.get("event") == "tell")
    proposed = first["cpu_seconds"].pop("propose")
    assert proposed >= 0.04 and first["seconds"].pop("propose") > 0
    assert first["cpu_seconds"] == second["cpu_seconds"] == {"merge": 2.0}
    assert run.timings.cpu_seconds() == pytest.approx(4.0 + proposed)
    assert list(run.timings.spent()) == ["propose", "merge"]
    assert told[-1]["cpu_seconds"] == told[-2]["cpu_seconds"] == {"merge": 2.0}
    assert b"propose" not in run.journal_path.read_bytes()
