"""Predicting a model's score on all documents from a few of them, by item-response theory.

Each document (item) has a difficulty b and a discrimination a, and each model has an ability theta.
A model answers a document correctly with probability sigmoid(a (theta - b)) (the two-parameter
logistic model, Birnbaum 1968). The parameters are fitted on models that were scored on all
documents (the parents, the first candidates). A new model is then scored on a few informative
documents only. These give its ability, and the ability predicts its answers to all other documents
(p-IRT of tinyBenchmarks, Maia Polo et al. 2024; MERGE3, Mencattini et al. 2025, uses it for
merging).

With few fitted models the result depends strongly on the priors. The reported error includes the
uncertainty of the ability and of the unseen answers, but not that of the documents' parameters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from evomerge.scores import Expected

Floats: TypeAlias = NDArray[np.float64]

_ABILITIES = np.linspace(-5.0, 5.0, 101)
_SPREAD = (1.0, 0.5, 2.0)  # prior standard deviations: ability, log discrimination, difficulty
_STEPS = 400


@dataclass(frozen=True)
class Items:
    """The fitted parameters of documents.

    Attributes:
        discrimination: (documents,) a > 0: how sharply a document separates good models from bad.
        difficulty: (documents,) b: the ability at which half of the answers are right.
        abilities: (models,) the abilities of the models that were fitted.
    """

    discrimination: Floats
    difficulty: Floats
    abilities: Floats

    @classmethod
    def fit(cls, answers: Sequence[Sequence[float]]) -> Items:
        """Fit the parameters of documents and models to answers (maximum a posteriori).

        Args:
            answers: (models, documents) values from 0 to 1, of at least two models.

        Raises:
            ValueError: fewer than two models, or values outside 0 .. 1.
        """
        known = np.asarray(answers, dtype=np.float64)
        if known.ndim != 2 or len(known) < 2:
            raise ValueError("item-response theory needs the answers of at least two models")
        if not ((known >= 0) & (known <= 1)).all():
            raise ValueError("item-response theory needs values from 0 to 1")
        theta, log_a, b = _start(known)
        moments = [np.zeros_like(x) for x in (theta, log_a, b) for _ in range(2)]
        for step in range(1, _STEPS + 1):
            gradients = _gradients(known, theta, log_a, b)
            for place, (value, gradient) in enumerate(
                zip((theta, log_a, b), gradients, strict=True)
            ):
                _ascend(value, gradient, moments[2 * place], moments[2 * place + 1], step)
        return cls(np.exp(log_a), b, theta)

    def choose(self, count: int) -> list[int]:
        """Return the indices of documents that are most informative about a model's ability.

        Greedy: each next document is the one that most increases the mean log Fisher information,
        over abilities from 1 below the worst fitted model to 1 above the best one.
        """
        low, high = np.min(self.abilities) - 1.0, np.max(self.abilities) + 1.0
        grid = np.linspace(low, high, 21)
        right = _sigmoid(self.discrimination * (grid[:, None] - self.difficulty))
        information = (
            self.discrimination**2 * right * (1 - right)
        )  # Fisher information of one answer
        gathered = np.ones(len(grid))  # the information of the prior
        left = np.ones(len(self.difficulty), dtype=bool)
        chosen: list[int] = []
        for _ in range(min(count, len(self.difficulty))):
            gain = np.log(gathered[:, None] + information).mean(axis=0)
            best = int(np.argmax(np.where(left, gain, -np.inf)))
            left[best] = False
            gathered += information[:, best]
            chosen.append(best)
        return sorted(chosen)

    def predict(self, documents: Sequence[int], values: Sequence[float]) -> Expected:
        """Return the expected score of a model on all documents, from its answers to some.

        Args:
            documents: indices of the documents that were scored.
            values: the model's values on them, from 0 to 1.
        """
        seen = np.asarray(documents, dtype=np.intp)
        known = np.asarray(values, dtype=np.float64)
        right = _sigmoid(self.discrimination * (_ABILITIES[:, None] - self.difficulty))
        right = right.clip(1e-9, 1 - 1e-9)
        fit = known * np.log(right[:, seen]) + (1 - known) * np.log(1 - right[:, seen])
        posterior = fit.sum(axis=1) - 0.5 * (_ABILITIES / _SPREAD[0]) ** 2
        weights = np.exp(posterior - np.max(posterior))
        weights /= weights.sum()
        unseen = np.ones(len(self.difficulty), dtype=bool)
        unseen[seen] = False
        expected = right[:, unseen].sum(axis=1)
        chance = (right[:, unseen] * (1 - right[:, unseen])).sum(axis=1)
        mean = float(weights @ expected)
        variance = float(weights @ (expected - mean) ** 2 + weights @ chance)
        count = len(self.difficulty)
        return Expected((float(known.sum()) + mean) / count, math.sqrt(variance) / count)


def _start(answers: Floats) -> tuple[Floats, Floats, Floats]:
    """Return starting values: abilities and difficulties from the shares of right answers."""
    models, documents = answers.shape
    by_model = (answers.sum(axis=1) + 1) / (documents + 2)
    by_document = (answers.sum(axis=0) + 1) / (models + 2)
    theta = np.log(by_model / (1 - by_model))
    return theta - theta.mean(), np.zeros(documents), -np.log(by_document / (1 - by_document))


def _gradients(
    answers: Floats, theta: Floats, log_a: Floats, b: Floats
) -> tuple[Floats, Floats, Floats]:
    """Return the gradients of the log posterior."""
    a = np.exp(log_a)
    distance = theta[:, None] - b
    residual = answers - _sigmoid(a * distance)
    return (
        (residual * a).sum(axis=1) - theta / _SPREAD[0] ** 2,
        (residual * distance).sum(axis=0) * a - log_a / _SPREAD[1] ** 2,
        -(residual * a).sum(axis=0) - b / _SPREAD[2] ** 2,
    )


def _ascend(value: Floats, gradient: Floats, first: Floats, second: Floats, step: int) -> None:
    """Take one step of gradient ascent by Adam (Kingma and Ba 2015), in place."""
    first += 0.1 * (gradient - first)
    second += 0.01 * (gradient**2 - second)
    rate = 0.1 * min(1.0, 3.0 * (1 - step / (_STEPS + 1)))
    corrected = first / (1 - 0.9**step)
    value += rate * corrected / (np.sqrt(second / (1 - 0.99**step)) + 1e-8)


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))
