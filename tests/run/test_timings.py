"""The times and the memory of a run, from its file `timings.jsonl`."""

from dataclasses import replace

import pytest
from run_folders import FAILED, asked, scores, told

from evomerge.run import logbook
from evomerge.run.folder import RunFolder
from evomerge.run.journal import Journal
from evomerge.run.logbook import Logbook
from evomerge.run.timings import Spent, Timings


@pytest.fixture
def timings(tmp_path):
    return Timings(tmp_path / "timings.jsonl")


def test_working_time_is_summed_over_sessions(timings, tmp_path):
    assert timings.hours() == 0
    for session, elapsed in ((1.0, 10.0), (1.0, 1800.0), (2.0, 900.0)):
        timings.note({"session": session, "elapsed": elapsed})
    with (tmp_path / "timings.jsonl").open("a") as file:
        file.write('{"session": 3.0, "ela')
    assert timings.hours() == pytest.approx(0.75)


def test_phases_are_summed_over_candidates_and_unknown_cpu_times_stay_unknown(timings):
    assert timings.spent() == {}
    for evaluate, merge in ((2.0, 0.5), (4.0, 0.25)):
        seconds = {"evaluate": evaluate, "merge": merge, "prepare": 0.125}
        timings.note({"seconds": seconds, "cpu_seconds": {k: v / 2 for k, v in seconds.items()}})
    timings.note({"seconds": {"evaluate": 8.0}})
    timings.note(
        {"seconds": {"evaluate": 9.0}, "cpu_seconds": {"evaluate": "fast"}}
    )  # no such line
    timings.note({"candidate": 3, "seconds": {}})
    timings.note({"event": "leg", "seconds": {"descend": 3.0}, "cpu_seconds": {"descend": 2.0}})
    assert list(timings.spent().items()) == [
        ("descend", Spent(3.0, 2.0)),
        ("prepare", Spent(0.25, 0.125)),
        ("merge", Spent(0.75, 0.375)),
        ("evaluate", Spent(14.0, None)),
    ]


def test_the_cost_so_far_has_descents_and_final_scores(timings):
    assert timings.cpu_seconds() == 0.0
    own = {"cpu_seconds": {"merge": 0.5, "evaluate": 2.0}}
    timings.note({"event": "tell", "candidate": 0, **own})
    timings.note({"event": "leg", "candidate": 1, "cpu_seconds": {"descend": 4.0}})
    timings.note({"event": "tell", "candidate": 1, **own})
    timings.note({"event": "score", "candidate": 1, "cpu_seconds": {"evaluate": 8.0}})
    assert timings.cpu_seconds() == 17.0


def test_a_preparation_is_shown_while_it_lasts_and_not_in_the_next_session(tmp_path, monkeypatch):
    monkeypatch.setattr(logbook, "INTERVAL", 0.0)
    run, events = RunFolder.create(tmp_path / "run", "{}", {}), []
    with Journal(run.journal_path) as journal:
        book = Logbook(run, journal, [lambda history, event: events.append(event)])
        assert run.timings.preparation() is None
        book.note_preparation("ties", 0, 9)
        book.note_preparation("ties", 4, 9)
        assert run.timings.preparation() == "preparing ties (4 of 9 tensors)"
        book.note_preparation("ties", 9, 9)
        assert run.timings.preparation() is None
        book.note_preparation("dare_ties", 2, 7)
    assert run.timings.preparation() == "preparing dare_ties (2 of 7 tensors)"
    with Journal(run.journal_path) as journal:  # as after a kill
        Logbook(run, journal, [])
        assert run.timings.preparation() is None
        assert len(journal.events) == 1  # only the header: no preparation is in the journal
    assert {item["event"] for item in events} == {"preparing"}
    assert [item["done"] for item in events][-3:] == [4, 9, 2]


def test_fast_preparations_are_not_shown(tmp_path):
    run, events = RunFolder.create(tmp_path / "run", "{}", {}), []
    with Journal(run.journal_path) as journal:
        book = Logbook(run, journal, [lambda history, event: events.append(event)])
        for done in range(10):
            book.note_preparation("ties", done, 9)
        for event, outcome in ((asked(0, "a"), None), (told(0, FAILED), FAILED)):
            book.write(event, outcome)
        book.write(asked(1, "b"))
        book.write(told(1, scores(3)), scores(3))
    assert [item["event"] for item in events] == ["ask", "tell", "ask", "tell"]


def test_the_peak_of_memory_is_the_largest_of_all_processes_and_not_in_the_journal(tmp_path):
    run = RunFolder.create(tmp_path / "run", "{}", {})
    assert run.timings.peak() == {}
    with Journal(run.journal_path) as journal:
        book = Logbook(run, journal, [])
        for number, peak in enumerate(({"process": 10**9}, {"process": 7, "accelerator": 5})):
            outcome = replace(scores(3), peak=peak)
            book.write(asked(number, "a"))
            book.write(told(number, outcome), outcome)
    for peak in ("much", {"process": -1}, {"process": 1e300}, {"accelerator": None}):
        run.timings.note({"peak": peak})
    assert run.timings.peak() == {"process": 10**9, "accelerator": 5}
    assert "peak" not in run.journal_path.read_text()
