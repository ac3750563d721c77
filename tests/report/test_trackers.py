"""Searches that are logged to trackers: what is logged, and that the search is not touched."""

import random
import sys
import time

import pytest
from scripted import OBJECTIVES, ScriptedExecutor, search
from tracker_runs import wandb_runs

from evomerge.errors import SearchError
from evomerge.report.trackers import TRACKERS, identity, tracked
from evomerge.run.folder import RunFolder
from evomerge.run.history import History
from evomerge.scores import Failure, Scores
from evomerge.searching.ranking import WeightedSum

CONFIG = {"seed": 3, "frozen": {"versions": {}}}


class MadeUp:
    """A tracker that keeps what it is told, as one on a server would."""

    def __init__(self, logged):
        self.logged, self.where, self.ended, self.summary = logged, "in a list", [], None
        self.run, self.known = self, None

    def __call__(self, *known):
        self.known, self.steps = known, len(self.logged)
        return self

    def log(self, metrics, step):
        assert step == len(self.logged)
        self.logged.append(metrics)

    def summarize(self, last, values):
        self.summary = last, values

    def finish(self, *, completed):
        self.ended.append(completed)


def follow(path, tracker, monkeypatch, dies_after=None, said=None, **changes):
    """Start or continue a search of which three candidates are scored at a time."""
    monkeypatch.setitem(TRACKERS, "made up", tracker)
    run = RunFolder(path) if path.exists() else RunFolder.create(path, CONFIG)
    executor = ScriptedExecutor(3, random.Random(1), failing=0.2, dies_after=dies_after)
    say = [].append if said is None else said.append
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
    assert [item["candidate"] for item in tracker.logged] == order != sorted(order)
    best, failed = [], 0
    for item, step in zip(history.told, tracker.logged, strict=True):
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
    assert any(step["estimated"] for step in tracker.logged)
    winner = history.winner
    values = {
        "winner": winner.number,
        "winner_name": winner.name,
        "validation/task/acc": winner.scores("validation").aggregates["task/acc"],
        "test/task/acc": winner.scores("test").aggregates["task/acc"],
    }
    assert tracker.summary == (len(tracker.logged) - 1, values)
    assert tracker.ended == [True]
    assert tracker.known[1] == {"name": "run", "config": {"seed": 3}}


@pytest.mark.parametrize("kept", [0, 2, 9])
def test_a_resumed_search_logs_what_the_tracker_lacks(tmp_path, monkeypatch, kept):
    whole, cut = MadeUp([]), MadeUp([])
    follow(tmp_path / "whole", whole, monkeypatch)
    with pytest.raises(SearchError, match="killed"):
        follow(tmp_path / "cut", cut, monkeypatch, dies_after=9)
    assert (cut.ended, cut.summary) == ([False], None)
    resumed = MadeUp(cut.logged[:kept])
    history = follow(tmp_path / "cut", resumed, monkeypatch)
    assert resumed.logged[: len(cut.logged)] == cut.logged
    assert [step["candidate"] for step in resumed.logged] == [item.number for item in history.told]
    assert resumed.known == cut.known
    assert resumed.summary == whole.summary


def test_a_finished_search_can_be_logged_later(tmp_path, monkeypatch):
    untracked(tmp_path / "run")
    late, first = MadeUp([]), MadeUp([])
    follow(tmp_path / "run", late, monkeypatch)
    follow(tmp_path / "other", first, monkeypatch)
    assert late.summary == first.summary
    same = [{key: value for key, value in item.items() if "/" not in key} for item in late.logged]
    assert [item | same[at] for at, item in enumerate(first.logged)] == first.logged


def test_a_tracker_that_fails_is_left_out(tmp_path, monkeypatch, capsys):
    class Hostile(MadeUp):
        def log(self, metrics, step):
            print("noise on standard output")
            super().log(metrics, step)
            if step == 4:
                raise SystemExit(3)

    keyboard, tracker, said = sys.stdin, Hostile([]), []
    follow(tmp_path / "a", tracker, monkeypatch, said=said)
    assert sys.stdin is keyboard and capsys.readouterr().out == ""
    assert (tmp_path / "a" / "journal.jsonl").read_bytes() == untracked(tmp_path / "b")
    assert (len(tracker.logged), tracker.summary, tracker.ended) == (5, None, [False])
    warning = "warning: made up failed (3); the search goes on without it."
    assert said == ["logging to made up: in a list", warning]


def test_a_tracker_that_cannot_start_is_left_out(tmp_path, monkeypatch):
    def opened(*known):
        raise OSError("no network")

    said = []
    follow(tmp_path / "a", opened, monkeypatch, said=said)
    assert said == ["warning: made up failed (no network); the search goes on without it."]
    assert (tmp_path / "a" / "journal.jsonl").read_bytes() == untracked(tmp_path / "b")


def test_a_tracker_cannot_ask_for_input(tmp_path, monkeypatch):
    class Asking(MadeUp):
        def log(self, metrics, step):
            input("your key? ")

    said = []
    follow(tmp_path / "run", Asking([]), monkeypatch, said=said)
    assert "EOF" in said[-1]


def test_runs_differ_by_search_file_and_place(tmp_path):
    runs = [RunFolder.create(tmp_path / name, CONFIG | {"seed": 4}) for name in ("a", "b")]
    runs.append(RunFolder.create(tmp_path / "c", CONFIG))
    found = [identity(run) for run in runs]
    assert len({identifier for identifier, _ in found}) == 3
    assert identity(RunFolder(tmp_path / "a")) == found[0]


def test_wandb_gets_every_step_and_fails_alone(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SearchError):
        follow(tmp_path / "run", TRACKERS["wandb"], monkeypatch, dies_after=9)
    time.sleep(1)  # wandb names a folder by the second
    history = follow(tmp_path / "run", TRACKERS["wandb"], monkeypatch)
    first, second = wandb_runs(tmp_path / "wandb")
    told = [item.number for item in history.told]
    # wandb cannot continue a run offline, so the second session has the steps of both.
    assert [step["candidate"] for step in second.steps] == told
    assert [step["candidate"] for step in first.steps] == told[: len(first.steps)]
    assert 0 < len(first.steps) < len(told)
    assert first.id == second.id == identity(RunFolder(tmp_path / "run"))[0]
    assert second.config == {"seed": 3}
    assert second.summary["winner"] == history.winner.number

    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("NETRC", str(tmp_path / "no login"))
    said = []
    follow(tmp_path / "online", TRACKERS["wandb"], monkeypatch, said=said)
    assert len(said) == 1 and "wandb login" in said[0]
    assert History(RunFolder(tmp_path / "online").events()).winner is not None
