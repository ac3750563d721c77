"""Who optimizes on a public benchmark's own test documents is told so."""

from __future__ import annotations

import pytest

from evomerge.evaluate.benchmarks import benchmark_warning
from evomerge.evaluate.facts import TaskFacts


def facts(name: str, part: str) -> TaskFacts:
    return TaskFacts(name, "generate_until", 100, {}, ("some/data", part))


@pytest.mark.parametrize(
    "name", ["gsm8k", "mmlu_abstract_algebra", "arc_challenge", "mgsm_direct_ja"]
)
@pytest.mark.parametrize("part", ["test", "validation"])
def test_the_warning_names_the_task_and_what_to_do(name: str, part: str) -> None:
    warning = benchmark_warning(facts(name, part))
    assert warning is not None
    for word in (name, part, "--allow-benchmarks", "evaluation.include"):
        assert word in warning


@pytest.mark.parametrize(
    ("name", "part"), [("gsm8k", "train"), ("my_arithmetic", "test"), ("zoo_maths", "test")]
)
def test_training_documents_and_ones_own_tasks_are_free(name: str, part: str) -> None:
    assert benchmark_warning(facts(name, part)) is None
