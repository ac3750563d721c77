"""The interface of policies that score some candidates on fewer documents."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeAlias

from evomerge.errors import ConfigError
from evomerge.evaluation.answers import Answers
from evomerge.evaluation.evaluator import Documents, Evaluator
from evomerge.evaluation.tasks.info import TasksInfo
from evomerge.scores import Expected, Objective, Scores, Split

Steps: TypeAlias = Generator[Documents, Scores, Mapping[str, Expected]]
"""A generator. It yields the documents that must be scored, those of earlier steps included, and
is sent the scores on them. When it stops before all documents are scored, it returns the expected
scores on all documents, by `task/metric`."""


class Fidelity(Protocol):
    """Decides on how many documents a candidate is scored.

    Laws: its decisions depend only on the arguments of `steps`, the scores that it is sent and its
    own settings, so that a resumed search repeats them. A candidate that may be the best one is
    scored on all documents.
    """

    @property
    def recent(self) -> int:
        """Maximum number of earlier candidates that `steps` is given."""
        ...

    @property
    def whole(self) -> bool:
        """Whether `steps` is given only candidates that were scored on all documents."""
        ...

    def steps(
        self, incumbent: Scores, earlier: Sequence[Scores], objectives: Sequence[Objective]
    ) -> Steps:
        """Return the steps in which one candidate is scored.

        Args:
            incumbent: scores of the best candidate so far, on all documents.
            earlier: scores of the last `recent` candidates, the latest one last.
            objectives: the objectives that make up the fitness.
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
    """Score a model on as many documents as a policy asks for.

    Args:
        fidelity: the policy.
        split: the split that the documents belong to.
        incumbent: scores of the best candidate so far, on all documents.
        earlier: scores of the last `fidelity.recent` candidates, the latest one last.
        objectives: the objectives that make up the fitness.

    Returns:
        the scores on the incumbent's documents; or the scores on some of these, with the expected
        scores on all of them in `expected`.

    Raises:
        CandidateError: the model cannot be run.
    """
    began = time.perf_counter()
    answers = Answers({})
    steps = fidelity.steps(incumbent, earlier, objectives)
    wanted = next(steps)
    while True:
        new = {task: [i for i in ids if not answers.has(task, i)] for task, ids in wanted.items()}
        answers = answers | evaluator.answer(model, split, new)
        scores = answers.scores(evaluator.tasks_of(split), time.perf_counter() - began)
        if scores.fidelity == incumbent.fidelity:
            return scores
        try:
            wanted = steps.send(scores)
        except StopIteration as stop:
            return replace(scores, expected=stop.value)


def check_means(section: str, objectives: Sequence[Objective], info: TasksInfo) -> None:
    """Check that the score of every objective is a mean over documents.

    Args:
        section: the section of the search file that switches the policy on, for the error.

    Raises:
        ConfigError: one of them is not.
    """
    for objective in objectives:
        is_mean = (
            not objective.is_exact and info.metric(objective.task, objective.metric)[1].is_mean
        )
        if not is_mean:
            raise ConfigError(
                f"`{section}` compares candidates document by document, but metric "
                f"{objective.metric!r} of {objective.task!r} is not a mean over documents; set "
                f"`{section}.enabled` to false, or name the tasks of a group one by one."
            )
