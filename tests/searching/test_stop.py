"""`evomerge stop`: a search ends early with a winner, and goes on as if it had not been stopped."""

import random
import time

import pytest
from run_folders import append, asked, scores, told, write_run
from scripted import ScriptedExecutor, course, search, space
from search_run import ended, evomerge, start, write_judged

from evomerge.__main__ import run as call
from evomerge.errors import RunFolderError, SearchError
from evomerge.report.facts import progress
from evomerge.run.folder import RunFolder
from evomerge.run.history import BASE, Candidate, History, outcome_fields


def test_a_run_whose_base_is_not_tested_yet_is_not_done(tmp_path):
    base, executor = Candidate(BASE, "zoo:base", "d" * 16), ScriptedExecutor(1, random.Random(0))
    base.recipe = space().baselines()["a"]
    search(tmp_path / "search", executor, candidates=6, bases=[base])
    winner, tested = (
        it for it in RunFolder(tmp_path / "search").events() if it["event"] in ("winner", "base")
    )
    final = {"event": "score", "candidate": 0, "split": "test", **outcome_fields(scores(9))}
    events = [asked(0), told(0, scores(9)), winner | {"candidate": 0}, final]
    run = write_run(tmp_path / "run", events, budget={"candidates": 1})
    assert progress(run)["state"] == "stopped"
    append(run, [tested])
    assert progress(run)["state"] == "done"
    append(run, [winner | {"candidate": 0}])  # once tested, the base has its scores
    assert progress(run)["state"] == "done"


SOURCE = '''
import os
import time

calls = []

def judge(model, tokenizer, documents):
    """Mean size of the first weights; the fourth candidate waits while there is a file HOLD."""
    calls.append(len(documents))
    while sum(count > 1 for count in calls) > 3 and os.path.exists(os.environ.get("HOLD", "")):
        time.sleep(0.02)
    return [float(next(model.parameters()).detach().abs().mean())] * len(documents)

judge.documents = 12
'''


def test_the_command_stops_a_search(tmp_path, capsys):
    file, run = write_judged(tmp_path, SOURCE), tmp_path / "run"
    hold = tmp_path / "hold"
    hold.touch()
    arguments = ["search", file, "--run", run]
    with (tmp_path / "printed").open("w+") as printed:
        process = start(
            *arguments, stdout=printed, stderr=printed, PYTHONPATH=str(tmp_path), HOLD=str(hold)
        )
    with ended(process):
        journal = run / "journal.jsonl"
        while not journal.exists() or journal.read_bytes().count(b'"event":"tell"') < 3:
            assert process.poll() is None
            time.sleep(0.05)
        assert call(["status", str(run)]) == 0
        assert "time left" in capsys.readouterr().out
        assert call(["stop", str(run)]) == 0
        assert "ends after the candidates that are being scored" in capsys.readouterr().err
        assert call(["status", str(run)]) == 0
        shown = capsys.readouterr().out
        assert "state\tstopping" in shown and "time left" not in shown
        hold.unlink()
        assert process.wait(250) == 0
    assert "stopped as asked; `evomerge resume" in (tmp_path / "printed").read_text()
    history = History(RunFolder(run).events())
    assert history.winner is not None and "test" in history.winner.outcomes
    assert call(["status", str(run)]) == 0
    assert "state\tstopped" in capsys.readouterr().out
    with pytest.raises(RunFolderError, match="No search is running"):
        call(["stop", str(run)])
    evomerge("resume", run, PYTHONPATH=str(tmp_path))
    evomerge("search", file, "--run", tmp_path / "whole", PYTHONPATH=str(tmp_path))
    whole = History(RunFolder(tmp_path / "whole").events())
    assert course(History(RunFolder(run).events())) == course(whole)


def test_a_search_that_is_stopped_before_its_first_score_says_how_to_go_on(tmp_path):
    executor = ScriptedExecutor(1, random.Random(0))
    with pytest.raises(SearchError, match="before a candidate was scored; go on with `evomerge re"):
        search(tmp_path / "run", executor, order="arrival", stop=lambda: True)
    assert course(search(tmp_path / "run", executor, order="arrival"))
