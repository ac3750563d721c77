"""A search for a front: its results and files."""

import pytest
from search_run import SMALL, STRUCTURED, evomerge_json, searched, write_search

import evomerge as package
from evomerge.run.ranking import ranking_of

pytestmark = pytest.mark.thorough

PATHS = {
    "seed": 0,
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


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> package.Run:
    folder = tmp_path_factory.mktemp("front")
    return searched(write_search(folder, **PATHS), folder / "run")


def test_the_front_is_that_of_the_scores(run: package.Run) -> None:
    history, folder = run.history, run.folder
    validated = [item for item in history.candidates if item.scores("validation")]
    assert history.front == ranking_of(run.record).incumbents(validated, "validation")
    assert len(history.front) >= 2
    for item in history.candidates:
        scores = item.scores("search").aggregates
        assert scores["model/layers"] in range(2, 9)
        assert 1 <= scores["zoo_l2_maths/tokens"] <= 3
    files = {path.stem for path in (folder / "front").glob("*.yaml")}
    assert files == {str(item.number) for item in history.front}
    knee = (folder / "front" / f"{history.winner.number}.yaml").read_text()
    assert knee == (folder / "best.yaml").read_text()


def test_results_status_and_report_show_the_front(run: package.Run) -> None:
    answer = evomerge_json("results", run.folder)
    front = [row["candidate"] for row in answer["candidates"] if row["front"]]
    merges = {row["candidate"] for row in answer["candidates"] if row["origin"] == "optimizer"}
    assert len(answer["standings"]["front"]) == len(merges.intersection(front))
    assert sorted(evomerge_json("status", run.folder)["front"]) == front
    page = run.report().read_text()
    for words in ("By what they differ from the parents", "(knee)"):
        assert words in page
