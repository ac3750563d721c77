"""A whole search over paths: killed and resumed, exported, and scored again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from search_run import STRUCTURED, evomerge, evomerge_json, write_search

pytestmark = pytest.mark.thorough

SEARCH: dict[str, Any] = {
    "base": None,
    "space": {**STRUCTURED, "ends": "free", "layers": [4, 8], "scales": [0.5, 1.5]},
    "optimizer": {"name": "cma-margin"},
    "objectives": [{"task": "zoo_l2_maths_mc", "metric": "acc"}],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataflow")
    evomerge("search", write_search(folder, **SEARCH), "--run", folder / "run")
    return folder / "run"


def test_the_export_of_a_scaled_path_has_the_recorded_score(run: Path, tmp_path: Path) -> None:
    evomerge("export", run, "--out", tmp_path / "model")
    (best,) = (row for row in evomerge_json("results", run)["candidates"] if row["winner"])
    search = run.parent / "search.yaml"
    again = evomerge_json("evaluate", tmp_path / "model", "--config", search, "--split", "test")
    (score,) = again["scores"].values()
    assert score["value"] == best["test zoo_l2_maths_mc/acc"]


def test_a_generation_killed_half_way_resumes_bit_for_bit(run: Path, tmp_path: Path) -> None:
    broken = tmp_path / "run"
    shutil.copytree(run, broken)
    lines = (run / "journal.jsonl").read_bytes().splitlines(keepends=True)
    told = [b'"event":"tell"' in line for line in lines]
    # Cut within a generation: all its candidates are asked, and only some are told.
    cut = next(i for i in range(12, len(lines)) if told[i - 2 : i + 1] == [True, True, True])
    (broken / "journal.jsonl").write_bytes(b"".join(lines[:cut]))
    evomerge("resume", broken)
    assert (broken / "journal.jsonl").read_bytes() == b"".join(lines)
