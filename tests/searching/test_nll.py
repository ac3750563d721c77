"""Real searches by the likelihood of reference answers, alone and where the metric is equal."""

from __future__ import annotations

from pathlib import Path

import pytest
from search_run import evomerge, write_search

pytestmark = pytest.mark.thorough

TASK = "zoo_l2_maths"
NLL = {"task": TASK, "metric": "nll"}


def test_people_read_nats_and_no_per_cent(tmp_path: Path) -> None:
    file, run = write_search(tmp_path, objectives=[NLL]), tmp_path / "run"
    said = evomerge("search", file, "--run", run).stderr
    assert "; best nll " in said
    assert "in %" not in evomerge("results", run).stdout
    assert "nll " in evomerge("status", run).stdout
    assert "points" not in evomerge("report", run).stdout + said
