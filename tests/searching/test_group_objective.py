"""A group of tasks as objective: its average is shown everywhere without an interval."""

import pytest
import yaml
from search_run import evomerge, evomerge_json, write_search

KEY = "both/exact_match"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("group")
    group = {
        "group": "both",
        "task": ["zoo_l2_maths", "zoo_maths"],
        "aggregate_metric_list": [{"metric": "exact_match", "weight_by_size": False}],
        "metadata": {"version": 1.0},
    }
    (folder / "tasks").mkdir()
    (folder / "tasks" / "both.yaml").write_text(yaml.safe_dump(group))
    file = write_search(
        folder,
        objectives=[{"task": "both", "metric": "exact_match"}],
        evaluation={
            "include": ["zoo:tasks", "./tasks"],
            "search": {"documents": 6},
            "validation": {"documents": 6, "finalists": 1},
            "test": {"documents": 6},
        },
    )
    done = evomerge("search", file, "--run", folder / "run", "--candidates", "5")
    assert "documents" in done.stderr  # the verdict
    assert "the winner is candidate" in done.stderr and "export it with" in done.stderr
    assert done.stdout.startswith("both/exact_match in %\ttest\t")
    return folder / "run"


def test_the_value_is_shown_alone(run, tmp_path):
    answer = evomerge_json("results", run)
    searched = answer["standings"]["rows"][-1]
    for split in ("search", "validation", "test"):
        estimate = searched["splits"][split][KEY]
        assert 0.0 <= estimate["value"] <= 1.0 and estimate["low"] is estimate["high"] is None
    assert answer["standings"]["comparisons"] == {}
    winner = answer["candidates"][answer["winner"]]
    assert searched["splits"]["search"][KEY]["value"] == winner["fitness"]
    value = searched["splits"]["test"][KEY]["value"]
    evomerge("report", run, "--out", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    evomerge("export", run, "--out", tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    assert f"<td>{100 * value:.1f}</td>" in page and "nan" not in page + card
    *_, last = (line for line in card.splitlines() if line.startswith(f"| {KEY} in % | "))
    assert last.split(" | ")[2] == f"{100 * value:.1f}"
