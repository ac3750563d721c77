"""The examples are what a person can use: search files are valid, job files have known options."""

from pathlib import Path

import pytest

from evomerge.config.schema import load
from evomerge.problem.preflight import warnings
from evomerge.problem.runs import prepare

EXAMPLES = Path(__file__).parents[2] / "examples"

STANDING_IN = [
    "parents=[zoo:language, zoo:maths]",
    "base=zoo:base",
    "dtype=float32",
    "objectives=[{task: zoo_l2_maths, metric: exact_match}]",
    "evaluation.include=[zoo:tasks]",
    "space.groups=6",
]
"""What stands in for models and tasks that would have to be downloaded: models of 6 layers."""


@pytest.mark.parametrize("name", ["one-gpu.yaml", "eight-gpus.yaml"])
def test_a_search_file_is_valid_apart_from_its_models_and_tasks(name):
    problem = prepare(load(EXAMPLES / name, STANDING_IN), EXAMPLES)
    assert warnings(problem, allow_benchmarks=False) == []
