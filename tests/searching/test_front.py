"""Searches for a front: several objectives, built-in ones, constraints, kills, results, exports."""

from pathlib import Path

import pytest
from scripted import OBJECTIVES, ScriptedExecutor, search, trajectory
from search_run import SMALL, STRUCTURED, evomerge, evomerge_json, kill_when, write_search

import evomerge as package
from evomerge.run.folder import RunFolder
from evomerge.run.history import History
from evomerge.scores import Constraint, Objective
from evomerge.searching.ranking import ParetoFront, ranking_of

pytestmark = pytest.mark.thorough

TWO = (*OBJECTIVES, Objective("task", "size", higher_is_better=False))
RULES = (Constraint("task", "acc", at_least=0.4),)

PATHS = {
    "seed": 0,
    "parents": ["zoo:language", "zoo:maths"],
    "base": None,
    "space": {**STRUCTURED, "ends": "free", "layers": [2, 8]},
    "optimizer": {"population": 6},
    "mode": "pareto",
    "objectives": [
        {"task": "zoo_l2_maths", "metric": "exact_match"},
        {"metric": "layers"},
        {"task": "zoo_l2_maths", "metric": "tokens"},
    ],
    "constraints": [{"metric": "parameters", "at_most": 900_000}],
    "evaluation": {**SMALL["evaluation"], "validation": {"documents": 16}},
}


@pytest.mark.parametrize("optimizer", ["nsga2", "random"])
@pytest.mark.parametrize("rules", [(), RULES])
def test_a_front_does_not_depend_on_width_or_kills(tmp_path, optimizer, rules):
    import random

    from evomerge.errors import SearchError

    options = {"optimizer": optimizer, "candidates": 60, "ranking": ParetoFront(TWO, rules)}
    options |= {"order": "generation", "recent": None}

    def run(name, width, seed, dies_after=None):
        executor = ScriptedExecutor(width, random.Random(seed), 0.1, dies_after)
        return search(tmp_path / name, executor, **options)

    alone = run("alone", 1, 0)
    assert trajectory(run("wide", 16, 1)) == trajectory(alone)
    for width, dies_after in ((5, 17), (3, 30)):
        with pytest.raises(SearchError, match="killed"):
            run("killed", width, width, dies_after)
    assert trajectory(run("killed", 7, 2)) == trajectory(alone)

    assert alone.front and alone.winner in alone.front
    members = [item.scores("validation").aggregates for item in alone.front]
    assert len({(m["task/acc"], m["task/size"]) for m in members}) == len(members)
    assert all("test" in item.outcomes for item in alone.front)
    if rules:
        assert all(m["task/acc"] >= 0.4 for m in members)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A search for a front over paths that was killed once and resumed."""
    folder = tmp_path_factory.mktemp("front")
    file = write_search(folder, **PATHS)
    journal = folder / "run" / "journal.jsonl"
    assert kill_when(["search", file, "--run", folder / "run"], journal, 15, 0.0) == -9
    evomerge("resume", folder / "run")
    return folder / "run"


def test_a_killed_search_ends_with_the_front_of_an_unbroken_one(run, tmp_path):
    evomerge("search", write_search(tmp_path, **PATHS), "--run", tmp_path / "whole")
    whole = History(RunFolder(tmp_path / "whole").events())
    assert trajectory(whole) == trajectory(History(RunFolder(run).events()))


def test_the_front_is_that_of_the_scores(run):
    folder = RunFolder(run)
    history, ranking = History(folder.events()), ranking_of(package.Run(run).config)
    validated = [item for item in history.candidates if item.scores("validation")]
    assert history.front == ranking.incumbents(validated, "validation")
    assert len(history.front) >= 2
    for item in history.candidates:
        scores = item.scores("search").aggregates
        assert scores["model/layers"] in range(2, 9)
        assert 1 <= scores["zoo_l2_maths/tokens"] <= 3
    files = {path.stem for path in (run / "front").glob("*.yaml")}
    assert files == {str(item.number) for item in history.front}
    knee = (run / "front" / f"{history.winner.number}.yaml").read_text()
    assert knee == (run / "best.yaml").read_text()


def test_results_status_and_report_show_the_front(run):
    answer = evomerge_json("results", run)
    front = [row["candidate"] for row in answer["candidates"] if row["front"]]
    compared = answer["standings"]["front"]
    merges = {row["candidate"] for row in answer["candidates"] if row["origin"] == "optimizer"}
    assert len(compared) == len(merges.intersection(front))
    assert sorted(evomerge_json("status", run)["front"]) == front
    page = (evomerge("report", run), (run / "report.html").read_text())[1]
    assert (
        "By what they differ from the parents" in page
        and "(knee)" in page
        and "hypervolume" in page
    )


def test_any_member_is_exported_as_it_was_scored(run, tmp_path):
    from safetensors import safe_open

    history = History(RunFolder(run).events())
    member = max(history.front, key=lambda item: item.scores("test").aggregates["model/layers"])
    evomerge("export", run, "--out", tmp_path / "m", "--candidate", member.number)
    score = evomerge_json("evaluate", tmp_path / "m", "--config", run / "search.yaml")["scores"]
    expected = member.scores("test").aggregates
    for key in (
        "zoo_l2_maths/exact_match",
        "zoo_l2_maths/tokens",
        "model/layers",
        "model/parameters",
    ):
        assert score[key]["value"] == expected[key]
    with safe_open(tmp_path / "m" / "model.safetensors", "pt") as file:
        sizes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
    count = 0
    for shape in sizes:
        size = 1
        for side in shape:
            size *= side
        count += size
    assert count == expected["model/parameters"]
    evomerge("export", run, "--out", tmp_path / "knee", "--candidate", "knee")
    assert (tmp_path / "knee" / "config.json").is_file()
