"""Searches that are logged to trackers: what is logged, and that the search is not touched."""

import random
import sys
from types import SimpleNamespace

import pytest
from scripted import OBJECTIVES, POOL, ScriptedExecutor, search

from evomerge.api.followers import tracked
from evomerge.run.folder import RunFolder
from evomerge.run.ranking import WeightedSum
from evomerge.scores import Failure, Scores

MANIFEST = {"config": {"seed": 3}, "versions": {}}


class MadeUp:
    """The part of trackio that is used: it keeps what it is told."""

    def __init__(self):
        self.logged, self.known, self.ended, self.name = [], {}, 0, "a run"

    def init(self, **known):
        self.known = known
        return self

    def log(self, metrics):
        self.logged.append(metrics)

    def finish(self):
        self.ended += 1


def follow(path, tracker, monkeypatch, said=None, **options):
    """Run a search of which three candidates are scored at a time."""
    monkeypatch.setitem(sys.modules, "trackio", tracker)
    run = RunFolder.create(path, "{}", MANIFEST)
    executor = ScriptedExecutor(3, random.Random(1), failing=0.2)
    say = [].append if said is None else said.append
    with tracked("trackio", run, WeightedSum(OBJECTIVES), say) as followers:
        return search(path, executor, followers=followers, **options)


@pytest.mark.parametrize("options", [{}, {"fresh": 3, "optimizer": "cma"}])
def test_each_outcome_is_a_step_and_the_result_is_the_last(tmp_path, monkeypatch, options):
    tracker = MadeUp()
    history = follow(tmp_path / "run", tracker, monkeypatch, **options)
    *steps, result = tracker.logged
    order = [item.number for item in history.finished]
    assert [item["candidate"] for item in steps] == order != sorted(order)
    best, failed = [], 0
    for item, step in zip(history.finished, steps, strict=True):
        failed += isinstance(item.first_outcome, Failure)
        assert step["failed"] == failed
        assert (
            ("fitness" in step)
            == ("search/task/acc" in step)
            == isinstance(item.first_outcome, Scores)
        )
        if isinstance(item.first_outcome, Scores):
            assert step["fitness"] == step["search/task/acc"]
            best += [] if item.first_outcome.expected else [step["fitness"]]
            assert step["documents"] == (3 if item.is_estimate else len(POOL["task"]))
            assert ("error" in step) == item.is_estimate == bool(item.first_outcome.expected)
        assert step.get("best_fitness") == max(best, default=None)
    assert failed > 0
    winner = history.winner
    assert result == {
        "winner": winner.number,
        "validation/task/acc": winner.scores("validation").aggregates["task/acc"],
        "test/task/acc": winner.scores("test").aggregates["task/acc"],
    }
    assert tracker.ended == 1
    assert (tracker.known["name"], tracker.known["config"]) == ("run", {"seed": 3})


def test_a_tracker_that_fails_or_cannot_start_is_left_out(tmp_path, monkeypatch, capsys):
    class Hostile(MadeUp):
        def log(self, metrics):
            print("noise on standard output")
            super().log(metrics)
            if len(self.logged) == 5:
                raise SystemExit(3)

    def init(**known):
        raise OSError("no network")

    tracker, said = Hostile(), []
    follow(tmp_path / "a", tracker, monkeypatch, said=said)
    assert capsys.readouterr().out == "" and (len(tracker.logged), tracker.ended) == (5, 0)
    where = "logging to trackio, project evomerge, run a"
    goes_on = "the search goes on without it."
    assert said == [where, f"warning: trackio failed (3); {goes_on}"]
    said.clear()
    follow(tmp_path / "b", SimpleNamespace(init=init), monkeypatch, said=said)
    assert said == [f"warning: trackio failed (no network); {goes_on}"]
    RunFolder.create(tmp_path / "plain", "{}", MANIFEST)
    search(tmp_path / "plain", ScriptedExecutor(3, random.Random(1), failing=0.2))
    journals = {(tmp_path / run / "journal.jsonl").read_bytes() for run in ("a", "b", "plain")}
    assert len(journals) == 1
