"""A run whose candidates raced, of evomerge at 842cfd75: it opens, reports and exports."""

import shutil
from pathlib import Path

import pytest

import evomerge
from evomerge.__main__ import run as command
from evomerge.errors import InputError

RACED = Path(__file__).with_name("raced")


@pytest.fixture
def raced(tmp_path):
    return shutil.copytree(RACED, tmp_path / "raced")


def test_it_opens_with_its_estimates_and_their_completion(raced):
    run = evomerge.Run(raced)
    history = run.history
    assert len(history.candidates) == 15 and history.winner is not None
    assert any(item.is_estimate for item in history.candidates)
    assert any(item.was_estimate and not item.is_estimate for item in history.candidates)
    frame = run.candidates
    assert frame["error"].notna().sum() == sum(item.is_estimate for item in history.candidates)


def test_it_is_shown_reported_and_exported(raced, tmp_path, capsys):
    assert command(["results", str(raced), "--all"]) == 0
    assert "searched" in capsys.readouterr().out
    assert command(["report", str(raced), "--out", str(tmp_path / "report.html")]) == 0
    assert command(["export", str(raced), "--out", str(tmp_path / "model")]) == 0
    recorded = evomerge.Run(raced).history.winner.scores("test").aggregates
    scores = evomerge.evaluate(tmp_path / "model", raced / "search.yaml", "test")
    assert {key: score.value for key, score in scores.items()} == {
        key: recorded[key] for key in scores
    }


def test_it_does_not_go_on(raced):
    with pytest.raises(InputError, match=r"raced, but racing is gone.*6ea4dca7, or start a new"):
        evomerge.resume(raced, progress=False)
