"""`evomerge results RUN RUN ...`: several runs in one table."""

import csv
import math
from pathlib import Path
from statistics import fmean, stdev

import pytest
from run_folders import finished, write_run
from search_run import SMALL, evomerge, evomerge_json

import evomerge as api
from evomerge.errors import InputError, RunFolderError
from evomerge.report.view import run_rows


def done(folder: Path, right: int, **changes) -> Path:
    """Write a run whose winner has so many right answers of 24, a parent 6 and the uniform 3."""
    models = [("zoo:language", 6), ("uniform", 3), (None, right)]
    return finished(folder, models, **changes).path


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Three seeds of one file, one of them without a winner, and a run of another file."""
    found = [done(tmp_path / f"cma-{s}", r, seed=s) for s, r in enumerate((18, 21))]
    found.append(write_run(tmp_path / "cma-2", [], seed=2).path)
    found.append(done(tmp_path / "random-1", 12, optimizer={"name": "random"}))
    return found


def test_runs_of_one_file_are_a_row_with_means_and_intervals(runs: list[Path]) -> None:
    table = api.results(runs)
    assert list(table.index) == ["cma", "random"] and list(table.seeds) == [2, 1]
    values = [18 / 24, 21 / 24]
    row = table.loc["cma"]
    assert row.score == fmean(values) and (row.best_parent, row.uniform) == (6 / 24, 3 / 24)
    own = [api.Run(run).standings.set_index(["split", "model"]) for run in runs[:2]]
    tests = [item.loc[("test", "searched")] for item in own]
    spread = 12.706 * stdev(values) / math.sqrt(2)  # Student's t of one degree of freedom
    below = math.hypot(spread, row.score - fmean(item.low for item in tests))
    assert row.low == pytest.approx(max(0.0, row.score - below)) and row.high == 1.0
    single = api.Run(runs[3]).standings.set_index(["split", "model"]).loc[("test", "searched")]
    assert (table.loc["random"].low, table.loc["random"].high) == (single.low, single.high)


def test_a_run_of_before_fresh_documents_is_of_the_same_file(tmp_path):
    """It says `auto`, which meant that racing was off, where a later run says null and false."""
    later = {"search": {"documents": 24, "fresh": None}, "racing": {"enabled": False}}
    drawn = {"search": {"documents": 24, "fresh": 4}}
    changes = [{}, later, drawn]
    evaluations = [{**SMALL["evaluation"], **change} for change in changes]
    runs = [
        done(tmp_path / f"{seed}", 12, seed=seed, evaluation=evaluation)
        for seed, evaluation in enumerate(evaluations)
    ]
    assert sorted(row["seeds"] for row in run_rows(runs)) == [1, 2]


def test_the_command_prints_the_table_for_people_and_for_programs(runs, tmp_path):
    heads, first, second = (
        line.split("\t") for line in evomerge("results", *runs).stdout.splitlines()
    )
    assert heads[:4] == ["search", "seeds", "merges won", "test exact_match in %"]
    assert first[:3] == ["cma", "2 of 3", "2"] and first[3].startswith("81.2 [")
    assert second[:2] == ["random", "1"] and second[4:7] == ["25.0", "12.5", "3"]
    done(lost := tmp_path / "lost", 2, winner=0)
    (row,) = run_rows([lost])
    assert (row["merges_won"], row["seeds"]) == (0, 1)  # a parent won
    done(killed := tmp_path / "killed", 20, splits=())
    assert run_rows([killed])[0]["merges_won"] == 0  # of the runs that `seeds` counts
    rows = evomerge_json("results", *runs)
    assert [row["score"] for row in rows] == list(api.results(runs).score)
    evomerge("results", *runs, "--csv", tmp_path / "table.csv")
    with (tmp_path / "table.csv").open() as file:
        assert [float(row["score"]) for row in csv.DictReader(file)] == [r["score"] for r in rows]


def test_a_picture_has_a_line_for_each_search(runs: list[Path], tmp_path: Path) -> None:
    (axes,) = api.plot_results([*runs[:3], api.Run(runs[3])]).axes
    lines = {line.get_label(): line.get_ydata().tolist() for line in axes.lines}
    both = [25.0, 25.0, pytest.approx(100 * fmean((18 / 24, 21 / 24)))]
    assert lines == {"cma, 2 runs": both, "random, 1 run": [25.0, 25.0, 50.0]}
    for name, begin in ("a.svg", b"<?xml"), ("b.pdf", b"%PDF"):
        evomerge("results", *runs, "--picture", tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(begin)
    for name, why in (
        ("c.x", "c.x; its name must end in .svg"),
        ("d/e.svg", "cannot be written: No"),
    ):
        assert why in evomerge("results", *runs, "--picture", tmp_path / name, code=2).stderr


def test_what_does_not_fit_is_one_sentence(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the same search with the same seed, .* give one"):
        api.results([runs[0], done(tmp_path / "again", 18, seed=0)])
    with pytest.raises(RunFolderError, match="does not exist"):
        api.results([runs[0], tmp_path / "none"])
    said = evomerge("results", *runs, "--top", "3", code=2).stderr
    assert "--top and --documents are for one run, but 4 are given" in said
