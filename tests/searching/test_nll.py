"""A real search by the likelihood of reference answers."""

from pathlib import Path

import pytest
from search_run import evomerge, write_search

pytestmark = pytest.mark.thorough


def test_people_read_nats_and_no_per_cent(tmp_path: Path) -> None:
    objectives = [{"task": "zoo_l2_maths", "metric": "nll"}]
    file, run = write_search(tmp_path, objectives=objectives), tmp_path / "run"
    said = evomerge("search", file, "--run", run).stderr
    assert "; best nll " in said
    assert "in %" not in evomerge("results", run).stdout
    assert "nll " in evomerge("status", run).stdout
    assert "points" not in evomerge("report", run).stdout + said
