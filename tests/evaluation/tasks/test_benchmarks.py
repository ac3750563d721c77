"""The warning for searches on the test documents of a public benchmark."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evomerge.evaluation.tasks.info import TaskInfo
from evomerge.setup.preflight import benchmark_warning


def info(name: str, part: str) -> TaskInfo:
    parts = {"test": part}
    return TaskInfo(name, "generate_until", 100, {}, "some/data", parts, "test")


def test_where_there_are_training_documents_they_are_named() -> None:
    parts = {"training": "train", "test": "test"}
    task = TaskInfo("gsm8k", "generate_until", 100, {}, "openai/gsm8k", parts, "test")
    assert "evaluation.search.task_split: training" in str(benchmark_warning(task))
    assert benchmark_warning(replace(task, task_split="training")) is None


@pytest.mark.parametrize(
    "name", ["gsm8k", "mmlu_abstract_algebra", "arc_challenge", "mgsm_direct_ja"]
)
@pytest.mark.parametrize("part", ["test", "validation"])
def test_the_warning_names_the_task_and_what_to_do(name: str, part: str) -> None:
    warning = benchmark_warning(info(name, part))
    assert warning is not None
    for word in (name, part, "--allow-benchmarks", "evaluation.include"):
        assert word in warning


@pytest.mark.parametrize(
    ("name", "part"), [("gsm8k", "train"), ("my_arithmetic", "test"), ("zoo_maths", "test")]
)
def test_training_documents_and_ones_own_tasks_are_free(name: str, part: str) -> None:
    assert benchmark_warning(info(name, part)) is None
