"""Item-response theory on answers that are sampled from its model."""

from __future__ import annotations

import numpy as np
import pytest

from evomerge.evaluation.fidelity.irt import Items


def drawn(models: int, documents: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    theta = rng.normal(size=models)
    a, b = np.exp(rng.normal(0.3, 0.4, documents)), rng.normal(0, 1.2, documents)
    right = 1 / (1 + np.exp(-a * (theta[:, None] - b)))
    return (rng.random((models, documents)) < right).astype(float), b


def test_difficulties_are_found() -> None:
    answers, b = drawn(60, 200, 0)
    items = Items.fit(answers)
    assert np.corrcoef(items.difficulty, b)[0, 1] > 0.85
    assert np.corrcoef(items.abilities, answers.mean(axis=1))[0, 1] > 0.95


@pytest.mark.parametrize("known", [6, 40])
def test_predictions_from_forty_documents_beat_their_mean_and_know_their_error(known: int) -> None:
    answers, _ = drawn(known + 60, 400, 1)
    items = Items.fit(answers[:known])
    chosen = items.choose(40)
    rng = np.random.default_rng(2)
    naive, predicted, scaled = [], [], []
    for row in answers[known:]:
        guess = items.predict(chosen, row[chosen])
        predicted.append(guess.value - row.mean())
        scaled.append((guess.value - row.mean()) / guess.error)
        naive.append(row[rng.choice(400, 40, replace=False)].mean() - row.mean())
    assert np.std(predicted) < np.std(naive)
    if known == 40:
        assert np.mean(np.abs(scaled) < 2) > 0.75


def test_all_documents_leave_no_error() -> None:
    answers, _ = drawn(10, 50, 3)
    guess = Items.fit(answers).predict(range(50), answers[0])
    assert guess.value == pytest.approx(answers[0].mean()) and guess.error == 0


@pytest.mark.parametrize("answers", [[[0.0, 1.0]], [[0.0, 2.0], [1.0, 1.0]]])
def test_what_cannot_be_fitted_is_refused(answers: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="item-response theory needs"):
        Items.fit(answers)
