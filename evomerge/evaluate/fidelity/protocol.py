"""How many documents a candidate is scored on: what racing, halving and item response share."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeAlias

from evomerge.errors import ConfigError
from evomerge.evaluate.evaluator import Answers, Documents, Evaluator
from evomerge.evaluate.tasks.info import Facts
from evomerge.scores import Expected, Objective, Scores, Split

Steps: TypeAlias = Generator[Documents, Scores, Mapping[str, Expected]]
"""Yields the documents that are to be scored so far, is sent the scores on them, and returns what
they let expect of all documents, by `task/metric`."""


class Fidelity(Protocol):
    """Decides on how many documents a candidate is scored.

    Laws: what it asks for follows from the arguments of `steps`, the scores it is sent and its own
    settings alone, so that a resumed search repeats it; who may be the best is scored on all.
    """

    @property
    def recent(self) -> int:
        """How many of the latest candidates it wants to know."""
        ...

    @property
    def whole(self) -> bool:
        """Whether of these it wants only such as were scored on all documents."""
        ...

    def steps(
        self, incumbent: Scores, earlier: Sequence[Scores], objectives: Sequence[Objective]
    ) -> Steps:
        """Score one candidate step by step.

        Args:
            incumbent: scores of the best candidate on all documents.
            earlier: scores of the `recent` candidates before, the latest last.
            objectives: what candidates are compared on.
        """
        ...


def score_by(
    fidelity: Fidelity,
    evaluator: Evaluator,
    model: Any,
    split: Split,
    incumbent: Scores,
    earlier: Sequence[Scores],
    objectives: Sequence[Objective],
) -> Scores:
    """Return a model's scores on the incumbent's documents, or on some and what they let expect.

    Raises:
        CandidateError: the model cannot be run.
    """
    began = time.perf_counter()
    answers = Answers({})
    steps = fidelity.steps(incumbent, earlier, objectives)
    asked = next(steps)
    while True:
        fresh = {task: [i for i in ids if not answers.has(task, i)] for task, ids in asked.items()}
        answers = answers | evaluator.answer(model, split, fresh)
        scores = evaluator.scores(answers, time.perf_counter() - began, split)
        if scores.fidelity == incumbent.fidelity:
            return scores
        try:
            asked = steps.send(scores)
        except StopIteration as stop:
            return replace(scores, expected=stop.value)


def check_means(section: str, objectives: Sequence[Objective], facts: Facts) -> None:
    """Refuse objectives whose score is not a mean over documents.

    Args:
        section: the key that asks for fewer documents, for the error.

    Raises:
        ConfigError: one of them is not.
    """
    for objective in objectives:
        _, about = facts.metric(objective.task, objective.metric)
        if not about.is_mean:
            raise ConfigError(
                f"`{section}` judges candidates document by document, but metric "
                f"{objective.metric!r} of {objective.task!r} is not a mean over documents; set "
                f"`{section}.enabled` to false, or name the tasks of a group one by one."
            )
