"""Predicted scores of candidates, whose answers are sampled by item-response theory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from evomerge.evaluation.evaluator import Evaluator
from evomerge.evaluation.fidelity.prediction import Prediction
from evomerge.evaluation.fidelity.protocol import score_by
from evomerge.evaluation.tasks.functions import Function
from evomerge.evaluation.tasks.info import MetricInfo, TaskInfo
from evomerge.scores import Objective, Scores, fitness, fitness_error

COUNT = 200
GAIN = Objective("t", "points")


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    info = TaskInfo("t", "function", COUNT, {"points": MetricInfo(True, True)})

    def body(model: Any, tokenizer: Any, ids: Sequence[int]) -> dict[str, list[float]]:
        return {"points": [float(model[i]) for i in ids]}

    evaluator = Evaluator(None, [Function(body, info)])
    evaluator.prepare(None, None, {"search": {"t": range(COUNT)}})
    return evaluator


def drawn(ability: float, seed: int) -> Any:
    """Return random answers of a model with this ability; a value is -1 or 3."""
    hardness = np.random.default_rng(7).normal(0, 1.2, COUNT)
    right = 1 / (1 + np.exp(-1.5 * (ability - hardness)))
    return np.where(np.random.default_rng(seed).random(COUNT) < right, 3.0, -1.0)


def test_models_are_scored_on_all_until_there_are_enough(evaluator: Evaluator) -> None:
    known: list[Scores] = [evaluator.score(drawn(1.0, 0))]
    for seed in range(1, 8):
        got = score_by(
            Prediction(20, 5), evaluator, drawn(-1.0, seed), "search", known[0], known, [GAIN]
        )
        if seed < 5:
            assert got.fidelity == {"t": COUNT} and not got.expected
            known.append(got)
        else:
            assert got.fidelity == {"t": 20} and got.expected


def test_predictions_hold_within_their_error_and_the_promising_are_scored(
    evaluator: Evaluator,
) -> None:
    known = [evaluator.score(drawn(0.15 * (n - 14), n)) for n in range(20)]
    incumbent = max(known, key=lambda scores: fitness([GAIN], scores))
    scaled = []
    for seed in range(100, 130):
        model = drawn(-0.5, seed)
        got = score_by(Prediction(40, 20), evaluator, model, "search", incumbent, known, [GAIN])
        if got.expected:
            error = fitness_error([GAIN], got)
            assert error is not None and error > 0
            scaled.append((fitness([GAIN], got) - model.mean()) / error)
    assert len(scaled) > 20
    assert np.mean(np.abs(scaled) < 2) > 0.75
    better = drawn(2.5, 999)
    got = score_by(Prediction(40, 20), evaluator, better, "search", incumbent, known, [GAIN])
    assert got.fidelity == {"t": COUNT} and not got.expected
    assert fitness([GAIN], got) == pytest.approx(better.mean())
