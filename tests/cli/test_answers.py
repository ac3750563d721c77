"""The commands status, results and export work on a run in any state."""

import csv
import json
import subprocess

import pytest
from run_folders import FAILED, KEY, STATES, append, finished, scores, told, write_run
from search_run import command, ended, environment, write_search

from evomerge.__main__ import run as call
from evomerge.config.schema import load
from evomerge.errors import InputError
from evomerge.problem.problem import record_of
from evomerge.problem.runs import prepare
from evomerge.report.facts import progress
from evomerge.run.folder import RunFolder
from evomerge.run.journal import Journal, read


def answer(capsys, *arguments):
    assert call([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


FIRST = {"candidate": 0, "origin": "zoo:language", "fitness": 3 / 24, "scores": {KEY: 3 / 24}}
FIRST |= {"low": pytest.approx(0.0434, abs=1e-4), "high": pytest.approx(0.3100, abs=1e-4)}
LATEST = {"candidate": 0, "fitness": 3 / 24, "scores": {KEY: 3 / 24}}
LATEST |= {"is_estimate": False, "failure": None}
COUNTS = {
    "empty": {"candidates": 0, "scored": 0, "failed": 0, "open": 0, "best": None},
    "asked only": {"candidates": 1, "scored": 0, "failed": 0, "open": 1, "best": None},
    "failed only": {"candidates": 2, "scored": 0, "failed": 2, "open": 0, "best": None},
    "being written": {"candidates": 2, "scored": 1, "failed": 0, "open": 1, "best": FIRST}
    | {"best_parent": FIRST, "latest": [LATEST]},
}


@pytest.mark.parametrize("state", STATES)
def test_status_and_results_of_an_unfinished_run(tmp_path, capsys, state):
    events, torn = STATES[state]
    run = write_run(tmp_path / "run", events, torn)
    values = answer(capsys, "status", run.path)
    assert values | COUNTS[state] == values
    assert values["state"] == "stopped"
    found = answer(capsys, "results", run.path)
    assert found["winner"] is None
    assert len(found["candidates"]) == COUNTS[state]["candidates"]
    with run.writing():
        assert answer(capsys, "status", run.path)["state"] == "running"
    call(["results", str(run.path), "--all"])
    shown = capsys.readouterr()
    lines = [line.partition("\t")[0] for line in shown.out.splitlines()]
    assert lines[lines.index("candidate") + 1 :] == list("012"[: COUNTS[state]["candidates"]])
    assert f"`evomerge resume {run.path}` goes on with it" in shown.err
    call(["status", str(run.path)])
    assert "state\tstopped" in (out := capsys.readouterr().out)
    assert f"go on\tevomerge resume {run.path}" in out


def test_export_of_a_run_without_scores_says_so(tmp_path):
    """A run with a real frozen search file, but without a scored candidate."""
    problem = prepare(load(write_search(tmp_path)), tmp_path)
    for state in ("empty", "asked only", "failed only"):
        run = RunFolder.create(tmp_path / state, "{}", record_of(problem).to_json())
        append(run, STATES[state][0])
        export = ["export", str(run.path), "--out", str(tmp_path / "model"), "--candidate"]
        with pytest.raises(InputError, match="no scored candidate yet"):
            call([*export, "best"])
    with pytest.raises(InputError, match="must be `best`, `knee` or"):
        call([*export, "9" * 5000])
    assert not (tmp_path / "model").exists()


@pytest.fixture
def run_folder(tmp_path):
    models = [('a "quoted", label', scores(6)), (None, FAILED), (None, scores(21))]
    return finished(tmp_path / "run", models, {2: 20})


def test_csv_has_the_rows_of_json(run_folder, tmp_path, capsys):
    assert call(["results", str(run_folder.path), "--csv", str(tmp_path / "rows.csv")]) == 0
    assert "wrote 3 rows to" in capsys.readouterr().err
    with (tmp_path / "rows.csv").open(newline="", encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    rows = answer(capsys, "results", run_folder.path)["candidates"]
    assert [list(row) for row in written] == [list(row) for row in rows]
    for ours, theirs in zip(written, rows, strict=True):
        assert ours == {key: "" if value is None else str(value) for key, value in theirs.items()}
    assert written[0]["origin"] == 'a "quoted", label'
    assert float(written[2][f"test {KEY}"]) == 20 / 24
    assert sorted(item.name for item in tmp_path.iterdir()) == ["rows.csv", "run"]
    best = answer(capsys, "results", run_folder.path, "--top", 2)["candidates"]
    assert [row["candidate"] for row in best] == [2, 0]
    assert rows[1]["failure"].startswith("merge: no")


def test_results_have_the_standings_first_the_verdict_and_candidates_on_request(run_folder, capsys):
    call(["results", str(run_folder.path)])
    shown = capsys.readouterr()
    lines = [line.split("\t") for line in shown.out.splitlines()]
    assert lines[0] == [f"{KEY} in %", "test", "validation", "search"]
    assert lines[2] == ["searched", "83.3 [64.1, 93.3]", "-", "87.5 [69.0, 95.7]"]
    assert len(lines) == 3 and "\nNot known yet: " in f"\n{shown.err}"
    call(["results", str(run_folder.path), "--all"])
    head, *rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()[3:]]
    assert [dict(zip(head, row, strict=True))["fitness in %"] for row in rows] == [
        "25",
        "-",
        "87.5",
    ]


def test_csv_of_an_empty_run_into_a_missing_folder_and_to_a_pipe(run_folder, tmp_path):
    run = write_run(tmp_path / "empty", [])
    call(["results", str(run.path), "--csv", str(tmp_path / "rows.csv")])
    assert (tmp_path / "rows.csv").read_text().split() == ["candidate"]
    with pytest.raises(InputError, match=r"--csv .* cannot be written: No such file"):
        call(["results", str(run.path), "--csv", str(tmp_path / "no" / "rows.csv")])
    words = command("results", run_folder.path, "--csv", "/dev/stdout")
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, env=environment(), check=True)
    assert len(done.stdout.splitlines()) == 4


def test_watch_follows_a_run_until_its_writer_ends(tmp_path):
    run = write_run(tmp_path / "run", STATES["being written"][0])
    words = command("status", run.path, "--watch")
    pipe = {"stdout": subprocess.PIPE, "text": True, "env": environment()}
    with ended(subprocess.Popen(words, **pipe)) as watching:
        with run.writing() as journal:
            assert "scored\t1\n" in watching.stdout
            journal.append(told(1, scores(5)))
            assert "scored\t2\n" in watching.stdout
        assert "state\tstopped\n" in watching.stdout
        assert watching.wait(250) == 0


def test_a_search_that_ends_while_its_journal_is_read_is_not_called_stopped(tmp_path, monkeypatch):
    run = write_run(tmp_path / "run", STATES["being written"][0])
    monkeypatch.setattr(RunFolder, "events", lambda run: writer.close() or read(run.journal_path))
    writer = Journal(run.journal_path)
    assert [progress(run)["state"] for _ in range(2)] == ["running", "stopped"]
