"""A run folder as an object says the same as the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure
from run_folders import FAILED, KEY, append, asked, scores, told, write_run
from search_run import evomerge_json

from evomerge.api.run import Run, plot_genes, plot_history, plot_standings
from evomerge.errors import RunFolderError
from evomerge.run.folder import RunFolder

GENES = ["layers[0:1].zoo:maths.weight"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    events = [
        *(asked(0, "zoo:language"), told(0, scores(6))),
        *(asked(1, genome=[0.25]), told(1, FAILED)),
        *(asked(2, genome=[0.75]), told(2, scores(21))),
        told(2, scores(20)) | {"event": "score", "split": "test"},
        {"event": "winner", "candidate": 2},
    ]
    folder = write_run(tmp_path / "run", events, frozen={"genes": GENES})
    folder.timings.note({"event": "tell", "candidate": 2, "seconds": {"evaluate": 1.5}})
    return Run(folder.path)


def test_candidates_are_the_rows_of_results(run: Run) -> None:
    frame = run.candidates
    rows = evomerge_json("results", run.folder)["candidates"]
    plain = frame.reset_index().filter(regex="^(?!seconds )").to_dict("records")
    for ours, theirs in zip(plain, rows, strict=True):
        assert {k: None if v != v else v for k, v in ours.items()} == theirs
    assert frame.loc[2, f"gene {GENES[0]}"] == 0.75
    assert frame.loc[2, "seconds evaluate"] == 1.5
    assert frame.loc[1, "status"] == "failed"


def test_the_best_candidate_its_genes_and_the_standings(run: Run) -> None:
    assert run.best is not None and run.best.number == 2
    assert [item.number for item in run.front] == [2]
    assert run.genes() == run.genes(2) == {GENES[0]: 0.75}
    assert run.genes(0) == {}
    table = run.standings.set_index(["score", "split", "model"]).sort_index()
    assert run.standings.split[0] == "test"
    assert table.loc[(KEY, "search", "searched"), "value"] == 21 / 24
    assert table.loc[(KEY, "test", "searched"), "value"] == 20 / 24
    assert table.loc[(KEY, "search", "zoo:language"), "low"] < 6 / 24
    assert f"{KEY} on search in %:\n" in str(run)
    assert "Not known yet" in run._repr_html_() and "searched" in run._repr_html_()
    assert run.status["winner"] == 2
    with pytest.raises(RunFolderError):
        run.genes(7)


def test_a_parent_that_wins_has_no_genes(run: Run, tmp_path: Path) -> None:
    start = {"origin": {"genome": [1.0]}}  # what the optimizer is told of it
    events = [
        *(asked(0, "zoo:language") | start, told(0, scores(20))),
        *(asked(1, genome=[0.25]), told(1, scores(3))),
        told(0, scores(20)) | {"event": "score", "split": "test"},
        {"event": "winner", "candidate": 0},
    ]
    run = Run(write_run(tmp_path / "parent", events, frozen={"genes": GENES}).path)
    assert run.best is not None and run.best.label == "zoo:language"
    assert run.genes() == {} and run.genes(1) == {GENES[0]: 0.25}
    assert run.candidates[f"gene {GENES[0]}"].isna().tolist() == [True, False]
    text = run.report(tmp_path / "page.html").read_text()
    assert "The winner is candidate 0, the baseline" in text
    assert "The genes of the best candidate" not in text


def test_a_run_that_goes_on_is_read_again(run: Run, tmp_path: Path) -> None:
    assert len(run.candidates) == 3
    append(RunFolder(run.folder), [asked(3, genome=[0.5]), told(3, scores(23))])
    assert len(run.candidates) == 4


def test_plots_are_figures(run: Run, tmp_path: Path) -> None:
    for plot in (plot_history, plot_standings, plot_genes):
        figure = plot(run)
        assert isinstance(figure, Figure)
        figure.savefig(tmp_path / "picture.svg")


def test_an_empty_run_has_no_rows(tmp_path: Path) -> None:
    run = Run(write_run(tmp_path / "run", []).path)
    assert run.candidates.empty and run.best is None and run.front == []
    assert run.standings.empty and "No candidate has been scored yet" in str(run)
    with pytest.raises(RunFolderError, match="does not exist"):
        Run(tmp_path / "none")
