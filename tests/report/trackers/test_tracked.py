"""Searches that are logged to trackers: what is logged, and that the search is not touched."""

import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path

import pytest
from scripted import OBJECTIVES, ScriptedExecutor, search
from tracker_runs import wandb_runs

from evomerge.errors import SearchError
from evomerge.report.trackers import follower
from evomerge.report.trackers.follower import tracked, tracked_run
from evomerge.run.folder import STAGES, RunFolder
from evomerge.run.history import History
from evomerge.scores import Failure, Scores
from evomerge.searching.ranking import WeightedSum

CONFIG = {"seed": 3, "frozen": {"versions": {}}}


class MadeUp:
    """A tracker that keeps what it is told, as one on a server would."""

    def __init__(self, steps):
        self.steps, self.where, self.ended, self.summary = steps, "in a list", [], None

    def open(self, run, warn):
        self.run, self.warn = run, warn
        return self

    def logged(self):
        return len(self.steps)

    def log(self, step, metrics):
        assert step == len(self.steps)
        self.steps.append(metrics)

    def summarize(self, step, values, finals):
        self.summary = step, values, finals

    def finish(self, *, completed):
        self.ended.append(completed)


def follow(path, tracker, monkeypatch, dies_after=None, say=lambda message: None, **changes):
    """Start or continue a search of which three candidates are scored at a time."""
    monkeypatch.setattr(follower, "find_tracker", lambda name: getattr(tracker, "open", tracker))
    run = RunFolder(path) if path.exists() else RunFolder.create(path, CONFIG)
    executor = ScriptedExecutor(3, random.Random(1), failing=0.2, dies_after=dies_after)
    with tracked("made up", run, WeightedSum(OBJECTIVES), say) as followers:
        return search(path, executor, followers=followers, **changes)


def untracked(path):
    RunFolder.create(path, CONFIG)
    search(path, ScriptedExecutor(3, random.Random(1), failing=0.2))
    return (path / "journal.jsonl").read_bytes()


def test_each_outcome_is_a_step_and_the_result_a_summary(tmp_path, monkeypatch):
    tracker = MadeUp([])
    history = follow(tmp_path / "run", tracker, monkeypatch)
    order = [item.number for item in history.told]
    assert [item["candidate"] for item in tracker.steps] == order != sorted(order)
    best, failed = [], 0
    for item, step in zip(history.told, tracker.steps, strict=True):
        failed += isinstance(item.told, Failure)
        assert step["failed"] == failed
        assert ("fitness" in step) == ("search/task/acc" in step) == isinstance(item.told, Scores)
        if isinstance(item.told, Scores):
            assert step["fitness"] == step["search/task/acc"]
            assert step["documents"] == sum(item.told.fidelity.values())
            assert step["estimated"] == bool(item.told.expected)
            best += [] if step["estimated"] else [step["fitness"]]
        assert step.get("best_fitness") == max(best, default=None)
    assert failed > 0
    assert any(step["estimated"] for step in tracker.steps)
    last, values, finals = tracker.summary
    assert last == len(tracker.steps) - 1
    winner = history.winner
    assert values == {
        "winner": winner.number,
        "winner_name": winner.name,
        "validation/task/acc": winner.scores("validation").aggregates["task/acc"],
        "test/task/acc": winner.scores("test").aggregates["task/acc"],
    }
    scored = {item.number for item in history.candidates if "validation" in item.outcomes}
    assert {row["candidate"] for row in finals} == scored
    assert [row["candidate"] for row in finals if row["winner"]] == [winner.number]
    assert tracker.ended == [True]
    assert (tracker.run.name, tracker.run.group, tracker.run.config) == ("run", None, {"seed": 3})


@pytest.mark.parametrize("kept", [0, 2, 9])
def test_a_resumed_search_logs_what_the_tracker_lacks(tmp_path, monkeypatch, kept):
    whole, cut = MadeUp([]), MadeUp([])
    follow(tmp_path / "whole", whole, monkeypatch)
    with pytest.raises(SearchError, match="killed"):
        follow(tmp_path / "cut", cut, monkeypatch, dies_after=9)
    assert (cut.ended, cut.summary) == ([False], None)
    resumed = MadeUp(cut.steps[:kept])
    history = follow(tmp_path / "cut", resumed, monkeypatch)
    assert resumed.steps[: len(cut.steps)] == cut.steps
    assert [step["candidate"] for step in resumed.steps] == [item.number for item in history.told]
    assert resumed.run == cut.run
    assert resumed.summary[1] == whole.summary[1]


def test_a_finished_search_can_be_logged_later(tmp_path, monkeypatch):
    untracked(tmp_path / "run")
    late, first = MadeUp([]), MadeUp([])
    follow(tmp_path / "run", late, monkeypatch)
    follow(tmp_path / "other", first, monkeypatch)
    assert late.summary == first.summary
    same = [{key: value for key, value in item.items() if "/" not in key} for item in late.steps]
    assert [item | same[at] for at, item in enumerate(first.steps)] == first.steps


def test_whatever_a_tracker_does_the_search_goes_on(tmp_path, monkeypatch, capsys):
    class Hostile(MadeUp):
        def log(self, step, metrics):
            print("noise on standard output")
            os.chdir("/")
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            sys.exit = sys.excepthook = None
            super().log(step, metrics)
            if step == 4:
                raise SystemExit(3)

    before = Path.cwd(), signal.getsignal(signal.SIGINT), sys.exit, sys.excepthook
    tracker, said = Hostile([]), []
    follow(tmp_path / "a", tracker, monkeypatch, say=said.append)
    assert before == (Path.cwd(), signal.getsignal(signal.SIGINT), sys.exit, sys.excepthook)
    assert capsys.readouterr().out == ""
    assert (tmp_path / "a" / "journal.jsonl").read_bytes() == untracked(tmp_path / "b")
    assert (len(tracker.steps), tracker.summary, tracker.ended) == (5, None, [True])
    assert said == [
        "logging to made up: in a list",
        "warning: made up failed (3), so nothing more is logged to it; the search goes on "
        "without it.",
    ]


def test_a_tracker_that_cannot_start_is_left_out(tmp_path, monkeypatch):
    def opened(run, warn):
        raise OSError("no network")

    said = []
    follow(tmp_path / "a", opened, monkeypatch, say=said.append)
    assert len(said) == 1 and "made up failed (no network)" in said[0]
    assert (tmp_path / "a" / "journal.jsonl").read_bytes() == untracked(tmp_path / "b")


def test_a_tracker_cannot_ask_for_input(tmp_path, monkeypatch):
    class Asking(MadeUp):
        def log(self, step, metrics):
            input("your key? ")

    said = []
    follow(tmp_path / "run", Asking([]), monkeypatch, say=said.append)
    assert "EOF" in said[-1]


def test_runs_differ_by_search_file_and_place(tmp_path):
    runs = [RunFolder.create(tmp_path / name, CONFIG | {"seed": 4}) for name in ("a", "b")]
    (tmp_path / "staged").mkdir()
    (tmp_path / "staged" / STAGES).write_text("stages: []\n")
    runs.append(RunFolder.create(tmp_path / "staged" / "stage-1", CONFIG))
    found = [tracked_run(run) for run in runs]
    assert len({item.id for item in found}) == 3
    assert tracked_run(RunFolder(tmp_path / "a")) == found[0]
    assert (found[2].name, found[2].group) == ("staged-stage-1", "staged")


def test_wandb_gets_every_step_and_fails_alone(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    from evomerge.report.trackers.wandb import WandbRun

    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SearchError):
        follow(tmp_path / "run", WandbRun, monkeypatch, dies_after=9)
    time.sleep(1)  # wandb names a folder by the second
    history = follow(tmp_path / "run", WandbRun, monkeypatch)
    first, second = wandb_runs(tmp_path / "wandb")
    told = [item.number for item in history.told]
    # wandb cannot continue a run offline, so the second session has the steps of both.
    assert [step["candidate"] for step in second.steps] == told
    assert [step["candidate"] for step in first.steps] == told[: len(first.steps)]
    assert 0 < len(first.steps) < len(told)
    assert first.id == second.id == tracked_run(RunFolder(tmp_path / "run")).id
    assert second.config == {"seed": 3}
    assert second.summary["winner"] == history.winner.number
    assert second.summary["finals"]["nrows"] >= 4

    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("NETRC", str(tmp_path / "no login"))
    said = []
    follow(tmp_path / "online", WandbRun, monkeypatch, say=said.append)
    assert len(said) == 1 and "wandb login" in said[0]
    assert History(RunFolder(tmp_path / "online").events()).winner is not None


def test_trackio_that_cannot_write_is_one_warning(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read by the first import
    storage = pytest.importorskip("trackio.sqlite_storage")
    from evomerge.report.trackers.trackio import TrackioRun

    (tmp_path / "a file").write_text("")
    monkeypatch.setattr(storage, "TRACKIO_DIR", tmp_path / "a file")
    show, said = warnings.showwarning, []
    follow(tmp_path / "a", TrackioRun, monkeypatch, say=said.append)
    assert len(said) == 2 and said[1].startswith("warning: made up failed (")
    assert warnings.showwarning is show
    assert capsys.readouterr() == ("", "")
    assert (tmp_path / "a" / "journal.jsonl").read_bytes() == untracked(tmp_path / "b")
