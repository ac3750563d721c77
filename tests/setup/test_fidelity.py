"""Racing is on by default only where measurements show that it finds merges as good."""

import copy

import pytest

from evomerge.config.schema import parse
from evomerge.evaluate.tasks.info import MetricInfo, TaskInfo, TasksInfo
from evomerge.scores import Objective
from evomerge.setup.fidelity import make_fidelity, resolve_racing

INFO = TasksInfo(
    {
        "t": TaskInfo(
            "t",
            "generate_until",
            900,
            {"acc": MetricInfo(True, is_mean=True), "f1": MetricInfo(True, is_mean=False)},
        )
    },
    {},
)
PLAIN = {"parents": ["a", "b"], "objectives": [{"task": "t", "metric": "acc"}]}


@pytest.mark.parametrize(
    ("change", "metric", "documents", "raced"),
    [
        ({}, "acc", 200, True),
        ({}, "acc", 199, False),
        ({}, "f1", 400, False),
        ({"evaluation": {"racing": {"minimum": 10}}}, "acc", 40, True),
        ({"evaluation": {"racing": {"enabled": False}}}, "acc", 400, False),
        ({"evaluation": {"racing": {"enabled": True}}}, "acc", 60, True),
        ({"evaluation": {"backend": "vllm"}}, "acc", 400, False),
        ({"evaluation": {"halving": {"enabled": True}}}, "acc", 400, False),
        ({"space": {"kind": "dataflow"}}, "acc", 400, False),
    ],
)
def test_racing_auto_becomes_true_or_false(change, metric, documents, raced):
    config = parse(copy.deepcopy(PLAIN) | change, "search.yaml")
    objectives = [Objective("t", metric)]
    resolved = resolve_racing(config, objectives, INFO, {"t": range(documents)})
    assert resolved.evaluation.racing.enabled is raced
    assert (resolved.evaluation.fidelity_policy == "racing") is raced
    again = parse(resolved.model_dump(mode="json"), "frozen")
    assert again == resolved and make_fidelity(again) == make_fidelity(resolved)
