"""The warning for searches on the test documents of a public benchmark."""

import pytest

from evomerge.evaluation.lm_eval.objective import benchmark_warning
from evomerge.evaluation.tasks.info import TaskInfo


@pytest.mark.parametrize(
    ("name", "part", "words"),
    [
        ("gsm8k", "test", ("--allow-benchmarks", "evaluation.search.task_split: training")),
        ("arc_challenge", "validation", ("arc_challenge", "validation", "evaluation.include")),
        ("gsm8k", "training", ()),
        ("my_arithmetic", "test", ()),
        ("zoo_maths", "test", ()),
    ],
)
def test_documents_of_benchmarks_are_warned_of_with_what_to_do(name, part, words):
    parts = {part: part} if name == "arc_challenge" else {"training": "train", "test": "test"}
    warning = benchmark_warning(TaskInfo(name, "generate_until", 9, {}, "a/b", parts, part)) or ""
    assert all(word in warning for word in words) and bool(warning) == bool(words)
