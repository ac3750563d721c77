"""Racing: a candidate is no longer scored once it is unlikely to beat the incumbent.

The candidate is scored on larger and larger samples of the documents. After each sample it is
compared with the incumbent document by document. When the probability that it is ahead on all
documents falls below 1 - confidence, the remaining documents are skipped. The paired comparison
(Birattari et al., F-Race, 2002) removes the difficulty of the documents from the variance, and
stratified sampling (`strata.py`) reduces it further. The probability is that of a normal
distribution with a finite-population correction, because only the documents not yet scored are
unknown (racing: Maron and Moore, Hoeffding Races, 1994).
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any, TypeAlias

from evomerge.errors import ConfigError
from evomerge.evaluation.answers import Answers
from evomerge.evaluation.evaluator import Documents, Evaluator
from evomerge.evaluation.strata import (
    differences,
    estimate,
    expected_scores,
    expected_squares,
    sample,
    stratify,
)
from evomerge.evaluation.tasks.info import TasksInfo
from evomerge.scores import Expected, Objective, Scores, Split, fitness

Steps: TypeAlias = Generator[Documents, Scores, Mapping[str, Expected]]
"""Yields the documents that must be scored, those of earlier steps included, and is sent the scores
on them. When it stops before all documents are scored, it returns the expected scores on all
documents, by `task/metric`."""

_GROWTH = 1.4  # least factor between one sample size and the next


@dataclass(frozen=True)
class Race:
    """Decides on how many documents a candidate is scored; one that may be the best is on all.

    Its decisions depend only on its settings, the arguments of `steps` and the scores that it is
    sent, so a resumed search repeats them.

    Attributes:
        confidence: a candidate is stopped when it is behind the incumbent with this probability.
        minimum: number of documents that each sample has more than the one before, at least.
        seed: determines, with the earlier candidates, the order of the documents.
        recent: number of earlier candidates from which the strata are made.
        strata_per_task: maximum number of strata in a task; 1 gives a plain random sample.
    """

    confidence: float = 0.98
    minimum: int = 50
    seed: int = 0
    recent: int = 40
    strata_per_task: int = 4

    def steps(
        self, incumbent: Scores, earlier: Sequence[Scores], objectives: Sequence[Objective]
    ) -> Steps:
        """Yield larger and larger samples until the candidate is unlikely to be ahead.

        Args:
            incumbent: scores of the best candidate so far, on all documents.
            earlier: scores of the last `recent` candidates, the latest one last.
        """
        documents = incumbent.documents
        squares = expected_squares(objectives, incumbent, earlier)
        # The strata are made from earlier candidates' answers, so the order must not be theirs.
        known = ",".join(float(fitness(objectives, scores)).hex() for scores in earlier)
        strata = stratify(squares, documents, f"{self.seed}/race/{known}", self.strata_per_task)
        for count in self.sizes(sum(map(len, documents.values()))):
            scores = yield sample(strata, documents, count)
            mean, variance = estimate(strata, differences(objectives, scores, incumbent))
            if chance(mean, variance) < 1 - self.confidence:
                break
        return expected_scores(strata, objectives, scores, incumbent, earlier)

    def sizes(self, total: int) -> list[int]:
        """Sample sizes at which the race is checked; the last is all documents.

        Each sample adds whole ones of the equal parts of at least `minimum` documents, since a
        remainder of a few documents would cost almost as much time as a full batch.
        """
        parts = max(1, total // self.minimum)
        sizes, taken = [], 1
        while taken < parts:
            sizes.append(math.ceil(total * taken / parts))
            taken = math.ceil(taken * _GROWTH)
        return [*sizes, total]


def chance(mean: float, variance: float) -> float:
    """Return the probability that a difference with this mean and variance is above 0."""
    if variance == 0.0:
        return 0.5 if mean == 0.0 else float(mean > 0.0)
    return NormalDist().cdf(mean / math.sqrt(variance))


def score_in_race(
    race: Race,
    evaluator: Evaluator,
    model: Any,
    split: Split,
    incumbent: Scores,
    earlier: Sequence[Scores],
    objectives: Sequence[Objective],
) -> Scores:
    """Score a model on as many documents as a race asks for.

    Returns:
        the scores on the incumbent's documents; or the scores on some of these, with the expected
        scores on all of them in `expected`.

    Raises:
        CandidateError: the model cannot be run.
    """
    began = time.perf_counter()
    answers = Answers({})
    steps = race.steps(incumbent, earlier, objectives)
    wanted = next(steps)
    while True:
        known = answers.rows
        new = {
            task: [i for i in ids if i not in known.get(task, ())] for task, ids in wanted.items()
        }
        answers = answers | evaluator.answer(model, split, new)
        scores = answers.scores(evaluator.tasks_of(split), time.perf_counter() - began)
        if scores.fidelity == incumbent.fidelity:
            return scores
        try:
            wanted = steps.send(scores)
        except StopIteration as stop:
            return replace(scores, expected=stop.value)


def check_means(objectives: Sequence[Objective], info: TasksInfo) -> None:
    """Raise a `ConfigError` unless the score of every objective is a mean over documents."""
    for objective in objectives:
        if objective.is_exact or not info.metric(objective.task, objective.metric)[1].is_mean:
            raise ConfigError(
                "`evaluation.racing` compares candidates document by document, but metric "
                f"{objective.metric!r} of {objective.task!r} is not a mean over documents; set "
                "`evaluation.racing.enabled` to false, or name the tasks of a group one by one."
            )
