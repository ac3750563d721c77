"""A run keeps its search file as it was written, goes on with the same search only, and says so."""

import json
import shutil
import sys
from typing import Any

import pytest
import yaml
from run_folders import append
from search_run import SMALL, write_search

import evomerge
from evomerge.__main__ import run as call
from evomerge.config.record import Record, parse_record
from evomerge.config.schema import parse
from evomerge.device import processor
from evomerge.errors import RunFolderError, SearchError
from evomerge.problem.problem import changes_since, installed_versions, record_of
from evomerge.problem.resolve import folder_of, load_any
from evomerge.problem.runs import begin, going_on, prepare
from evomerge.run.folder import CONFIG, RunFolder
from evomerge.run.journal import Journal
from evomerge.run.logbook import Logbook
from evomerge.searching.run import check_search_file
from evomerge.strategy.optimizers import GenomeOptimizer

TEXT = json.dumps(SMALL)


def test_the_file_is_kept_as_it_is_and_the_manifest_has_what_it_means(tmp_path):
    (tmp_path / "tasks").mkdir()
    include = ["zoo:tasks", "tasks"]
    file = write_search(tmp_path, evaluation=SMALL["evaluation"] | {"include": include})
    file.write_text("# why this search\n" + file.read_text())
    wrote = load_any(file)
    run = begin(tmp_path / "run", prepare(wrote, folder_of(file)), wrote, file)
    assert (run.path / CONFIG).read_text() == file.read_text()
    record = run.record()
    config = record.config
    assert record.folder == str(tmp_path)
    assert config.evaluation.include == ["zoo:tasks", str(tmp_path / "tasks")]
    assert (wrote.executor.order, config.executor.order) == ("auto", "generation")
    assert load_any(run.path / CONFIG) == record
    more = load_any(run.path / CONFIG, ["evaluation.test.documents=all"])
    assert more.evaluation.test.documents == "all" and not isinstance(more, Record)
    assert folder_of(run.path / CONFIG) == folder_of(file) == tmp_path
    changed = wrote.model_copy(update={"seed": 7})
    other = begin(tmp_path / "other", prepare(changed, tmp_path), changed, file)
    assert yaml.safe_load((other.path / CONFIG).read_text())["seed"] == 7
    assert parse(other.written(), "search.yaml") == changed


def test_a_manifest_that_was_edited_with_its_digest_is_refused(tmp_path):
    def session(run):
        with Journal(run.journal_path) as journal:
            check_search_file(run, Logbook(run, journal, []))
        return run.events()

    def again(name, **manifest):
        """Return another run with the journal of this one; the digest of its manifest fits."""
        other = RunFolder.create(tmp_path / name, TEXT, manifest)
        other.journal_path.write_bytes(run.journal_path.read_bytes())
        return other

    run = RunFolder.create(tmp_path / "run", TEXT, {"config": SMALL, "folder": "/a"})
    before = session(run)
    assert [event["event"] for event in before] == ["header", "search"]
    moved = SMALL | {"executor": {"kind": "processes", "workers": 4}}
    assert session(run) == session(again("moved", config=moved, folder="/b")) == before
    for name, changes in (("one", {"seed": 2}), ("two", {"dtype": "bfloat16"})):
        with pytest.raises(RunFolderError, match="is not the one that this run's journal was"):
            session(again(name, config=SMALL | changes, folder="/a"))


FILE = SMALL | {
    "base": "zoo:base",
    "optimizer": {"name": "auto", "population": 4},
    "evaluation": SMALL["evaluation"] | {"fewshot": 0},
    "budget": {"candidates": 9},
}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("runs")
    wrote = parse(FILE, "file")
    return begin(folder / "run", prepare(wrote, folder), wrote, folder / "file")


def changed(run: RunFolder, **sections: Any) -> tuple[dict[str, float], list[str]]:
    return going_on(run.path, FILE | sections, run.path / "search.yaml")


def test_the_same_search_goes_on_and_a_new_budget_and_other_workers_count(begun: RunFolder) -> None:
    bounds, moves = changed(begun)
    assert bounds == {}
    assert moves[:2] == ['executor.kind="inline"', "executor.workers=1"]
    assert changed(begun, mode="weighted", tokenizer="base")[0] == {}, "the defaults"
    bounds, _ = changed(begun, budget={"candidates": 20, "hours": 3})
    assert bounds == {"candidates": 20, "hours": 3}
    append(begun, [{"event": "budget", "candidates": 20}])
    assert changed(begun, budget={"candidates": 20})[0] == {}
    assert changed(begun)[0] == {}, "the file did not change, so what `resume` has set stays"
    _, moves = changed(begun, executor={"kind": "processes", "workers": 2, "timeout": 60})
    assert dict(move.split("=") for move in moves)["executor.workers"] == "2"


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({"parents": ["zoo:language", "zoo:steps"]}, "parents"),
        ({"base": None}, "base"),
        ({"evaluation": SMALL["evaluation"]}, "evaluation.fewshot"),
        ({"optimizer": {"population": 4, "name": "cma"}}, "optimizer.name"),
        ({"optimizer": {"name": "gradient"}}, "optimizer.name`, `optimizer.population"),
        ({"seed": 4, "optimizer": {"name": "auto"}}, "seed`, `optimizer.population"),
        ({"executor": {"order": "arrival"}}, "executor.order"),
    ],
)
def test_another_search_is_refused(begun: RunFolder, changes: dict[str, Any], keys: str) -> None:
    """Also if a key was removed or is `auto`, for which the run has what it was resolved to."""
    with pytest.raises(RunFolderError, match=f"holds another search .* differs in `{keys}`;"):
        changed(begun, **changes)


def test_other_versions_and_another_processor_are_named(tmp_path):
    small = {**SMALL, "budget": {"candidates": 3}}
    manifest = record_of(prepare(parse(small, "search.yaml"), tmp_path)).to_json()
    assert manifest["versions"] == installed_versions(parse(small, "search.yaml"))
    assert manifest["processor"] == processor()

    def told():
        return tuple(changes_since(parse_record(manifest, "manifest.json")))

    assert told() == ()
    manifest["versions"] |= {"torch": "0.1", "xyz-not-there": "3.0"}
    manifest["processor"] = "x86_64 elsewhere AVX2"
    (note,) = told()
    assert "torch 0.1 (now " in note and "xyz-not-there 3.0 (now none)" in note
    assert "numpy" not in note and "another kind of processor, x86_64 elsewhere AVX2 (now " in note
    RunFolder.create(tmp_path / "run", json.dumps(small), manifest)
    run = evomerge.resume(tmp_path / "run", progress=False)
    assert run.status["state"] == "done"
    log = (tmp_path / "run" / "log.txt").read_text()
    assert log.count("The run began with torch 0.1") == 1


@pytest.mark.thorough
def test_a_run_of_any_name_works_in_every_command(tmp_path, capsys):
    """And a budget that is in force already is not journaled again."""
    ended = evomerge.search(SMALL, tmp_path / "first", candidates=9, progress=False).folder
    journal = (ended / "journal.jsonl").read_bytes()
    assert call(["resume", str(ended), "--candidates", "9"]) == 0
    assert (ended / "journal.jsonl").read_bytes() == journal
    run = tmp_path / "a+b #1 50%20 é;$x"
    shutil.copytree(ended, run)
    (tmp_path / "link").symlink_to(run)
    for name in (run, tmp_path / "link"):
        for words in (
            ["status", name],
            ["results", name],
            ["resume", name, "--candidates", "22"],
            ["export", name, "--out", tmp_path / f"model of {name.name}"],
            ["merge", name / "best.yaml", "--out", tmp_path / f"merge of {name.name}"],
        ):
            assert call(list(map(str, words))) == 0
        start = {"optimizer": {"start": [f"run:{name}"]}}
        assert prepare(parse({**SMALL, **start}, "new"), tmp_path).start
    files = [tmp_path / f"{kind} of {run.name}" for kind in ("model", "merge")]
    first, second = [(file / "model.safetensors").read_bytes() for file in files]
    assert first == second


def test_a_system_exit_of_an_optimizer_stops_the_search_with_a_sentence(tmp_path, monkeypatch):
    """Else the search would end with exit status 0 and no word."""
    monkeypatch.setattr(GenomeOptimizer, "make", lambda kind, problem: sys.exit(0))
    with pytest.raises(SearchError, match=r"raised SystemExit: 0; remove the cause.*resume"):
        evomerge.search({**SMALL, "budget": {"candidates": 4}}, tmp_path / "run", progress=False)


def test_the_base_is_tested_beside_the_winner_and_nothing_else_knows_of_it(tmp_path):
    """It is in no generation and wins nothing, so the search is the one that it was without."""
    objectives = [{"task": "zoo_l2_maths", "metric": "nll"}]
    config = SMALL | {"budget": {"candidates": 5}, "objectives": objectives}
    run = evomerge.search(config, run=tmp_path / "run", progress=False)
    journal = tmp_path / "run" / "journal.jsonl"
    whole = journal.read_bytes()
    events = RunFolder(tmp_path / "run").events()
    assert [event["event"] for event in events].count("base") == 1
    assert events[-1]["event"] == "base" and events[-1]["label"] == "zoo:base"
    assert len(run.history.candidates) == 5 and len(run.history.baselines) == 3
    (base,) = run.history.bases
    (alone,) = evomerge.evaluate("zoo:base", config, split="test").values()
    assert base.scores("test").aggregates["zoo_l2_maths/nll"] == alone.value
    rows = run.standings[run.standings["model"] == "zoo:base (base)"]
    assert rows["split"].tolist() == ["test"]

    journal.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))  # killed before, or older
    for _ in range(2):
        evomerge.resume(tmp_path / "run", progress=False)
        assert journal.read_bytes() == whole
