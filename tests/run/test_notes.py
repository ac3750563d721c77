"""The times and the memory of a run, which `status` and the report read."""

from dataclasses import replace

import pytest
from run_folders import FAILED, asked, scores, told

from evomerge.run.folder import RunFolder
from evomerge.run.journal import Journal, Spent
from evomerge.run.logbook import Logbook


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path / "run", "{}", {})


def test_working_time_is_summed_over_sessions(run):
    assert run.timings.hours() == 0
    for session, elapsed in ((1.0, 10.0), (1.0, 1800.0), (2.0, 900.0)):
        run.timings.note({"session": session, "elapsed": elapsed})
    with (run.path / "timings.jsonl").open("a") as file:
        file.write('{"session": 3.0, "ela')
    assert run.timings.hours() == pytest.approx(0.75)


def test_phases_and_costs_are_summed(run):
    timings = run.timings
    assert timings.spent() == {} and timings.cpu_seconds() == 0.0
    for evaluate, merge in ((2.0, 0.5), (4.0, 0.25)):
        seconds = {"evaluate": evaluate, "merge": merge, "prepare": 0.125}
        timings.note({"seconds": seconds, "cpu_seconds": {k: v / 2 for k, v in seconds.items()}})
    timings.note({"seconds": {"evaluate": 8.0}})
    wrong = {"seconds": {"evaluate": 9.0}, "cpu_seconds": {"evaluate": "fast"}}
    timings.note(wrong)  # is no line
    timings.note({"candidate": 3, "seconds": {}})
    timings.note({"event": "leg", "seconds": {"descend": 3.0}, "cpu_seconds": {"descend": 2.0}})
    assert list(timings.spent().items()) == [
        ("descend", Spent(3.0, 2.0)),
        ("prepare", Spent(0.25, 0.125)),
        ("merge", Spent(0.75, 0.375)),
        ("evaluate", Spent(14.0, 3.0)),
    ]
    assert timings.cpu_seconds() == 2.0 + 0.125 + 0.375 + 3.0


def test_the_peak_of_memory_is_not_in_the_journal(run):
    assert run.timings.peak() == {}
    with Journal(run.journal_path) as journal:
        book = Logbook(run, journal, [])
        for number, peak in enumerate(({"process": 10**9}, {"process": 7, "accelerator": 5})):
            outcome = replace(FAILED if number == 0 else scores(3), peak=peak)
            book.write(asked(number, "a"))
            book.write(told(number, outcome), outcome)
    for peak in ("much", {"process": -1}, {"process": 10**300}, {"accelerator": None}):
        run.timings.note({"peak": peak})
    assert run.timings.peak() == {"process": 10**9, "accelerator": 5}
    assert "peak" not in run.journal_path.read_text()
