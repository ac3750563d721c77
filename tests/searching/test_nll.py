"""Real searches by the likelihood of reference answers, alone and where the metric is equal."""

from __future__ import annotations

from pathlib import Path

import pytest
from rounding import NATS
from search_run import SMALL, evomerge, evomerge_json, write_search

pytestmark = pytest.mark.thorough

TASK = "zoo_l2_maths"
TIES = {"task": TASK, "metric": "exact_match", "tie_breaker": "nll"}
NLL = {"task": TASK, "metric": "nll"}
RACING = {
    **SMALL["evaluation"],
    "search": {"documents": 48},
    "racing": {"enabled": True, "minimum": 8},
}


def rows_of(run: Path) -> list[dict]:
    return evomerge_json("results", run)["candidates"]


@pytest.mark.parametrize(
    "changes",
    [
        {"evaluation": RACING, "budget": {"candidates": 24}},
        {"mode": "pareto", "objectives": [NLL, {"metric": "layers"}], "optimizer": {}},
        {"constraints": [{"task": TASK, "metric": "nll", "at_most": 9.0}]},
    ],
    ids=["racing", "pareto", "constraint"],
)
def test_it_is_an_objective_like_others(tmp_path: Path, changes: dict) -> None:
    data = {"objectives": [NLL], "budget": {"candidates": 14}} | changes
    file, run = write_search(tmp_path, **data), tmp_path / "run"
    evomerge("search", file, "--run", run)
    rows = rows_of(run)
    found = [row[f"search {TASK}/nll"] for row in rows]
    asked = [row["documents"] for row in rows]
    assert min(found) < min(found[:3]) and min(found) > 0
    (winner,) = [row for row in rows if row["winner"]]
    if "mode" not in data:
        assert all(row["fitness"] == -row[f"search {TASK}/nll"] for row in rows)
        estimated = [row["error"] for row in rows if row["documents"] < max(asked)]
        assert bool(estimated) == ("evaluation" in changes) and None not in estimated
    model = tmp_path / "model"
    evomerge("export", run, "--out", model, "--candidate", str(winner["candidate"]))
    scores = evomerge_json("evaluate", model, "--config", file)["scores"]
    assert scores[f"{TASK}/nll"]["value"] == pytest.approx(winner[f"test {TASK}/nll"], abs=NATS)


def test_people_read_nats_and_no_per_cent(tmp_path: Path) -> None:
    file, run = write_search(tmp_path, objectives=[NLL]), tmp_path / "run"
    said = evomerge("search", file, "--run", run).stderr
    assert "; best nll " in said
    assert "in %" not in evomerge("results", run).stdout
    assert "nll " in evomerge("status", run).stdout
    assert "points" not in evomerge("report", run).stdout + said
