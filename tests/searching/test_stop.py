"""`evomerge stop`: a search ends early with a winner, and goes on as if it had not been stopped."""

from __future__ import annotations

import itertools
import random
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from draws import draws
from hypothesis import given, settings
from hypothesis import strategies as st
from judging import write_judged
from run_folders import append, asked, scores, told, write_run
from scripted import ScriptedExecutor, search
from search_run import ended, evomerge, start

from evomerge.__main__ import run as call
from evomerge.cli import notify
from evomerge.errors import ConfigError, InputError, RunFolderError, SearchError
from evomerge.report.progress import progress
from evomerge.run.folder import RunFolder
from evomerge.run.history import History, outcome_fields


def searched(history: History) -> list[tuple[Any, ...]]:
    """Return what the search itself has found, without the final scores."""
    return [
        (item.digest, item.origin, item.generation, item.incumbent, item.known, item.told)
        for item in history.candidates
    ]


@pytest.mark.parametrize("soup", [False, True])
@pytest.mark.parametrize("order", ["generation", "arrival"])
@settings(max_examples=draws(12), deadline=None)
@given(stops=st.lists(st.integers(1, 45), min_size=1, max_size=3), width=st.integers(1, 9))
def test_a_stopped_search_has_a_winner_and_goes_on_to_the_same_end(order, soup, stops, width):
    width = width if order == "generation" else 1  # by arrival, the width changes the course
    options = {"candidates": 40, "order": order, "greedy_soup": soup, "recent": None}

    def go(folder: str, stop: int | None = None) -> History:
        executor = ScriptedExecutor(width, random.Random(0), failing=0.1)
        asked = lambda: stop is not None and len(executor.scored) >= stop  # noqa: E731
        return search(Path(name, folder), executor, stop=asked, **options)

    with tempfile.TemporaryDirectory() as name:
        whole, before = go("whole"), 0
        for stop in stops:
            history = go("stopped", stop)
            assert history.winner is not None and "test" in history.winner.outcomes
            new = len(history.told) - before
            assert new <= stop + width, "what had not begun was scored, too"
            before = len(history.told)
        assert searched(go("stopped")) == searched(whole)


@pytest.mark.parametrize("bound", [{"patience": 4, "optimizer": "nevergrad:DE"}, {"target": 0.9}])
def test_it_may_be_stopped_between_two_proposals(tmp_path, bound):
    """Outcomes of a part of a generation, or of the baselines, must not end the search later."""

    def go(folder: Path, stop: Callable[[], bool] = lambda: False) -> History:
        executor = ScriptedExecutor(1, random.Random(0))
        return search(folder, executor, recent=None, stop=stop, **bound)

    whole = searched(go(tmp_path / "whole"))
    for moment in range(1, 40):
        looks, folder = itertools.count(), tmp_path / f"{moment}"
        go(folder, lambda looks=looks, moment=moment: next(looks) >= moment)
        assert searched(go(folder)) == whole, moment


def test_a_stopped_run_with_open_candidates_is_not_done(tmp_path):
    events = [asked(0, "zoo:language"), told(0, scores(9)), asked(1, genome=[0.5, 1.0])]
    final = {"event": "score", "candidate": 0, **outcome_fields(scores(9))}
    events += [final | {"split": "validation"}, {"event": "winner", "candidate": 0}]
    run = write_run(
        tmp_path / "run", [*events, final | {"split": "test"}], budget={"candidates": 2}
    )
    assert progress(run)["state"] == "stopped"
    append(run, [told(1, scores(3))])
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


def test_the_command_stops_a_search_which_tells_that_it_was_stopped(tmp_path, capsys):
    file, run, told = write_judged(tmp_path, SOURCE), tmp_path / "run", tmp_path / "told"
    hold = tmp_path / "hold"
    hold.touch()
    tell = f"echo $EVOMERGE_STATE $EVOMERGE_RUN $EVOMERGE_MESSAGE > {shlex.quote(str(told))}"
    arguments = ["search", file, "--run", run, "--notify", tell]
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
    assert told.read_text().startswith(f"stopped {run} ")
    with pytest.raises(RunFolderError, match="No search is running"):
        call(["stop", str(run)])
    evomerge("resume", run, "--notify", tell, PYTHONPATH=str(tmp_path))
    evomerge("search", file, "--run", tmp_path / "whole", PYTHONPATH=str(tmp_path))
    whole = History(RunFolder(tmp_path / "whole").events())
    assert searched(History(RunFolder(run).events())) == searched(whole)
    assert told.read_text().startswith(f"done {run} ")


def test_a_command_is_told_of_a_failure_and_its_own_failure_is_a_warning(tmp_path, capfd):
    tell = "echo $EVOMERGE_STATE: $EVOMERGE_MESSAGE; exit 3"
    missing, run = str(tmp_path / "missing.yaml"), str(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"missing\.yaml"):
        call(["search", missing, "--run", run, "--notify", tell])
    printed = capfd.readouterr()
    assert "failed: " in printed.out and "missing.yaml" in printed.out
    assert "the command of --notify ended with exit code 3" in printed.err


def test_a_search_that_is_stopped_before_its_first_score_says_how_to_go_on(tmp_path):
    executor = ScriptedExecutor(1, random.Random(0))
    with pytest.raises(SearchError, match="before a candidate was scored; go on with `evomerge re"):
        search(tmp_path / "run", executor, order="arrival", stop=lambda: True)
    assert searched(search(tmp_path / "run", executor, order="arrival"))


def test_a_command_that_hangs_is_ended_with_what_it_has_started(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(notify, "_LONGEST", 1.0)
    file = tmp_path / "pid"
    with pytest.raises(InputError), notify.notifying(f"sleep 300 & echo $! > {file}; wait", file):
        raise InputError("wrong")
    assert "the command of --notify was ended after 1 seconds" in capsys.readouterr().err
    wanted = ["ps", "-o", "stat=", "-p", file.read_text().strip()]
    state = subprocess.run(wanted, capture_output=True, text=True, check=False).stdout
    assert state.strip()[:1] in ("", "Z")  # a zombie, if nobody waits for orphans here


def test_a_command_that_cannot_be_called_hides_no_failure(tmp_path, capsys):
    with pytest.raises(RuntimeError, match="long"), notify.notifying("true", tmp_path):
        raise RuntimeError("long" * 100_000)
    assert "the command of --notify cannot be called" in capsys.readouterr().err
    with pytest.raises(InputError, match="--notify has no command"), notify.notifying("", tmp_path):
        raise AssertionError
