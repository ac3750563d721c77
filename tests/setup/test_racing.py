"""Racing is on by default only where measurements show that it finds merges as good."""

import copy

import pytest

from evomerge.config.schema import parse
from evomerge.errors import ConfigError
from evomerge.evaluation.tasks.info import MetricInfo, TaskInfo, TasksInfo
from evomerge.scores import Objective
from evomerge.setup.check import resolve_racing
from evomerge.setup.worker import make_race

MEAN, OTHER = MetricInfo(True, is_mean=True), MetricInfo(True, is_mean=False)
INFO = TasksInfo(
    {
        name: TaskInfo(name, kind, 900, {"acc": MEAN, "f1": OTHER})
        for name, kind in (
            ("t", "generate_until"),
            ("u", "generate_until"),
            ("choices", "multiple_choice"),
        )
    },
    {},
)
PLAIN = {
    "parents": ["a", "b"],
    "objectives": [{"task": "t", "metric": "acc"}],
    "budget": {"candidates": 400},
}


def resolved(change, metric, documents, generation=10):
    config = parse(copy.deepcopy(PLAIN) | change, "search.yaml")
    search = {task: range(count) for task, count in documents.items()}
    return resolve_racing(config, [Objective("t", metric)], INFO, search, generation)


@pytest.mark.parametrize(
    ("change", "metric", "documents", "raced", "why"),
    [
        ({}, "acc", 150, True, "racing, since 150 documents make 6 samples of 25"),
        ({}, "acc", 149, False, "off, since it needs 150 documents, and there are 149"),
        ({}, "f1", 400, False, "off, since f1 is not a mean"),
        ({"evaluation": {"racing": {"minimum": 60}}}, "acc", 400, True, "samples of 60"),
        ({"evaluation": {"racing": {"enabled": True}}}, "acc", 60, True, "racing, as the search"),
        ({"evaluation": {"backend": "vllm"}}, "acc", 400, False, "off, since vLLM"),
        ({"optimizer": {"name": "gp"}}, "acc", 400, False, "off, since gp finds worse merges"),
        (
            {"space": {"kind": "dataflow"}},
            "acc",
            400,
            False,
            "off, since it was measured in parameter spaces only",
        ),
    ],
)
def test_racing_auto_becomes_true_or_false(change, metric, documents, raced, why):
    config, reason = resolved(change, metric, {"t": documents})
    assert config.evaluation.racing.enabled is raced
    assert (make_race(config) is not None) is raced
    assert why in reason
    again = parse(config.model_dump(mode="json"), "frozen")
    assert again == config and make_race(again) == make_race(config)


def test_few_generations_are_scored_on_all_documents():
    def races(budget, generation):
        config, _ = resolved({"budget": budget}, "acc", {"t": 400}, generation)
        return config.evaluation.racing.enabled

    for generation, enough in ((1, 400), (10, 400), (16, 640)):
        assert races({"candidates": enough}, generation)
        assert not races({"candidates": enough - 1}, generation)
    assert races({"hours": 1}, 16)  # in the same time, more candidates find better merges
    assert not races({"hours": 1, "candidates": 100}, 16)


def test_a_metric_that_is_no_mean_is_refused_where_the_file_asks_for_racing():
    with pytest.raises(ConfigError, match=r"evaluation\.racing.*metric 'f1' of 't' is not a mean"):
        resolved({"evaluation": {"racing": {"enabled": True}}}, "f1", {"t": 400})


def test_samples_are_large_enough_for_each_task_that_generates_texts():
    auto = {"evaluation": {"device": "cpu"}}
    asked = {"evaluation": {"racing": {"enabled": True}}}
    several = {"t": 200, "u": 200, "choices": 100}
    for change, minimum in ((auto, 48), (asked, 25)):
        config, _ = resolved(change, "acc", several)
        assert config.evaluation.racing.enabled and config.evaluation.racing.minimum == minimum
    config, reason = resolved(auto, "acc", several | {"t": 50, "u": 50})
    assert not config.evaluation.racing.enabled and "it needs 288 documents" in reason
    assert config.evaluation.racing.minimum == 25


def test_a_few_texts_are_no_full_batch_on_an_accelerator():
    """`meta` is a device that is no CPU and that every torch has."""
    meta = {"evaluation": {"device": "meta"}}
    assert not resolved(meta, "acc", {"t": 1535})[0].evaluation.racing.enabled
    assert resolved(meta, "acc", {"t": 1536})[0].evaluation.racing.enabled
    assert resolved(meta, "acc", {"choices": 400})[0].evaluation.racing.enabled
