"""Objective functions: the values that they may return, and what is wrong with a module."""

import sys

import numpy as np
import pytest
import torch

from evomerge.errors import CandidateError, ConfigError
from evomerge.evaluation.tasks.functions import ObjectiveFunction, find
from evomerge.evaluation.tasks.info import MetricInfo, TaskInfo


def scored(body):
    info = TaskInfo("mine:f", "function", 9, {"score": MetricInfo(True, is_mean=True)})
    return ObjectiveFunction(body, info).score(None, None, {"mine:f": [3, 4]})["mine:f"]


NUMBERS = (
    *([0.5, 1], (0.5, 1.0), [np.float32(0.5), np.int64(1)], np.array([0.5, 1.0])),
    *(torch.tensor([0.5, 1.0]), [torch.tensor(0.5), torch.tensor(1.0)], {"score": [0.5, 1.0]}),
)
OTHERS = (
    *("01", b"01", None, 1.0, torch.tensor(1.0), {0.5, 1.0}, {}, {"score": ["half", 1.0]}),
    *([None, 1.0], [float("nan"), 1.0], [1.0, float("-inf")], np.array([np.nan, 1.0])),
    *([10**400, 1], [1 + 0j, 1.0], [[0.5], [1.0]], [1.0], [1.0, 1.0, 1.0]),
    *((number for number in (0.5, 1.0)), {"score": [0.5, 1.0], "more": [0.5, 1.0]}),
)


@pytest.mark.parametrize("scores", NUMBERS, ids=repr)
def test_numbers_are_scores_whatever_holds_them(scores):
    found = scored(lambda *_: scores)
    assert found == [{"score": 0.5}, {"score": 1.0}]
    assert {type(row["score"]) for row in found} == {float}


@pytest.mark.parametrize("scores", OTHERS, ids=lambda scores: repr(scores).split(" at ")[0])
def test_anything_else_is_refused_in_a_sentence(scores):
    with pytest.raises(CandidateError, match=r"Objective mine:f returned .* must "):
        scored(lambda *_: scores)


def test_chance_does_not_depend_on_what_was_called_before():
    def draw(*_):
        return [float(torch.rand(())), float(np.random.random())]

    first = scored(draw)
    assert torch.rand(5).sum() + np.random.random() and scored(draw) == first


def test_a_person_can_interrupt_a_function():
    def interrupted(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scored(interrupted)


JUDGE = "def judge(*_): ...\njudge.documents = {}\njudge.metrics = {}\n"
WRONG = (
    *((JUDGE.format(5, metrics), "metrics") for metrics in (["score"], None, {}, {1: True})),
    (JUDGE.format(5, {"score": "yes"}), "metrics"),
    *((JUDGE.format(count, {"score": True}), "documents") for count in (True, 0, "'7'")),
    *((line, "could not be imported") for line in ("raise SystemExit", "raise BaseException")),
)


@pytest.mark.parametrize(("module", "words"), WRONG)
def test_a_wrong_module_is_one_sentence(monkeypatch, tmp_path, module, words):
    (tmp_path / "wrong_module.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wrong_module", raising=False)
    with pytest.raises(ConfigError, match=words):
        find("wrong_module:judge")


@pytest.mark.parametrize("name", ["nowhere_at_all:f", "math:nothing", "math:pi", "math:sqrt"])
def test_a_name_that_is_no_function_is_one_sentence(name):
    with pytest.raises(ConfigError, match=name):
        find(name)
