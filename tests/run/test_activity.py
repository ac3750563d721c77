"""What workers do, as a running search notes it and `status` reads it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest

from evomerge.cli.live import in_words, worker_rows
from evomerge.run import activity as activity_module
from evomerge.run.activity import Activity, WorkerState, read_activity


def test_what_is_noted_is_read_and_each_change_is_written_sooner_or_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, now = tmp_path / "workers.json", 100.0
    clock = SimpleNamespace(monotonic=lambda: now, time=lambda: 1e9)
    monkeypatch.setattr(activity_module, "time", clock)
    activity = Activity(path)
    assert activity.write_if_due() is None and not path.exists()
    activity.note(1, "starting")
    assert activity.write_if_due() is None
    activity.note(1, "scoring", "cuda:1", [4, 5], "search")
    activity.note_loss()
    assert read_activity(path)[0][0].state == "starting"
    wait = activity.write_if_due()
    assert wait == 1.0
    now += wait
    assert activity.write_if_due() is None
    (state,), lost = read_activity(path)
    assert (state.number, state.state, state.place) == (1, "scoring", "cuda:1")
    assert (state.candidates, state.split, lost) == ((4, 5), "search", 1)


def test_a_damaged_file_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "workers.json"
    for text in ("", "{", "[]", '{"workers": [{"number": "x"}], "lost": 0}', '{"workers": 3}'):
        path.write_text(text)
        assert read_activity(path) == ([], 0)


def test_of_many_workers_those_are_shown_that_take_longest() -> None:
    def state(number: int, name: str, since: float) -> WorkerState:
        return WorkerState(number, name, "", (number,) * (name == "scoring"), "search", since)

    states = [state(number, "scoring", 100.0 - number) for number in range(40)]
    workers = [asdict(item) for item in [*states, state(40, "free", 0.0)]]
    assert in_words({"workers": workers}) == {"workers": "41: 40 scoring, 1 free"}
    rows = worker_rows(workers, 160.0)
    assert [row[0] for row in rows] == [str(number) for number in range(30, 40)]
    assert rows[-1] == ["39", "-", "candidate 39 on search", "99 s"]
