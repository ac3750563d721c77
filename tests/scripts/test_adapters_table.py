"""The showcase's tables of adapters, with embedded models in place of SmolLM2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from executor_laws import Pretend

from evomerge.execute.processes import ProcessWorker
from evomerge.setup.executors import PRELOADED
from scripts.real.adapters import (
    rows_of_extracted,
    rows_of_merged,
    search_file,
    table,
    write_average,
)

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module", autouse=True)
def server() -> None:
    """Start the server of processes as workers of searches need it: all tests here have one."""
    worker = ProcessWorker(Pretend(), PRELOADED)
    worker.start()
    worker.answer()
    worker.close()


@pytest.fixture
def config() -> dict[str, Any]:
    return search_file("zoo:base", "zoo:maths", "zoo_maths", "zoo:tasks", 30)


def test_a_higher_rank_loses_less_and_scores_as_the_model(
    config: dict[str, Any], tmp_path: Path
) -> None:
    rows = list(rows_of_extracted("zoo:base", "zoo:maths", config, [2, 32], tmp_path))
    assert [row[:2] for row in rows] == [
        ("base", ""),
        ("extracted-2", "2"),
        ("extracted-32", "32"),
        ("zoo:maths", ""),
    ]
    assert float(rows[1][2]) > 50 > float(rows[2][2])
    assert rows[0][3] != rows[1][3] != rows[2][3] == rows[3][3]
    assert len({line.count("|") for line in table(iter(rows))}) == 1


def test_adapters_become_one_that_is_the_merge(config: dict[str, Any], tmp_path: Path) -> None:
    adapters = [str(Path("configs/adapters", name).resolve()) for name in ("language", "maths")]
    average = write_average("zoo:base", adapters, tmp_path)
    rows = list(rows_of_merged("zoo:base", average, config, [1, None], tmp_path))
    assert [row[0] for row in rows] == ["average-1", "average-uncut", "average"]
    assert float(rows[0][2]) > 10 and rows[1][2] == "0.0"
    assert rows[1][3] == rows[2][3]
