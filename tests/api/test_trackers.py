"""Searches that are logged to trackers: what is logged, and that the search is not touched."""

import random
import sys
from types import SimpleNamespace

from scripted import OBJECTIVES, ScriptedExecutor, search

from evomerge.api.followers import tracked
from evomerge.run.folder import RunFolder
from evomerge.run.ranking import WeightedSum

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
