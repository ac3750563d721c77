"""The warning for searches on the test documents of a public benchmark."""

import pytest

from evomerge.evaluation.tasks.info import TaskInfo
from evomerge.setup.preflight import benchmark_warning


@pytest.mark.parametrize(
    ("name", "part", "words"),
    [
        *((name, "test", ("--allow-benchmarks",)) for name in ("gsm8k", "mmlu_anatomy")),
        ("arc_challenge", "validation", ("arc_challenge", "validation", "evaluation.include")),
        ("gsm8k", "train", ()),
        ("my_arithmetic", "test", ()),
        ("zoo_maths", "test", ()),
    ],
)
def test_documents_of_benchmarks_are_warned_of_with_what_to_do(name, part, words):
    task = TaskInfo(name, "generate_until", 100, {}, "some/data", {"test": part}, "test")
    warning = benchmark_warning(task) or ""
    assert all(word in warning for word in words) and bool(warning) == bool(words)


def test_training_documents_are_named():
    parts = {"training": "train", "test": "test"}
    task = TaskInfo("gsm8k", "generate_until", 100, {}, "openai/gsm8k", parts, "test")
    assert "evaluation.search.task_split: training" in str(benchmark_warning(task))
