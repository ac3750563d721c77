"""What descents learn: reference answers, right answers of candidates, or the best parents.

- `reference`: the reference answers of all search documents.
- `successes`: for tasks that generate answers, the first answer of a parent or candidate that
  scored right (a value of 1). So a model learns whole chains of thought where the references are
  only final answers, as in STaR (arXiv 2203.14465). Documents without one wait.
- `experts`: what the best parent on each task finds likely (DAM, arXiv 2410.08371; Expert Merging,
  2509.25712), on the documents that it answers right (by graded metrics such as F1: half right or
  better). No reference answers are needed.
"""

import logging
import math
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from evomerge.errors import SearchError
from evomerge.recipe import Recipe
from evomerge.scores import Documents, Objective, Scores, fitness

log = logging.getLogger(__name__)

Kind: TypeAlias = Literal["reference", "successes", "experts"]

WATCHED = 0.2  # share of each task's search documents that is watched
LEAST_WATCHED = 10  # documents of a task that must be left to watch; with fewer, none are


@dataclass(frozen=True)
class Lesson:
    """What one descent learns.

    Attributes:
        learned: the documents that its steps draw from, by task.
        watched: those on which the loss is only computed.
        answers: task -> document -> the text that takes the place of the reference answer.
        teachers: task -> the recipe of the model whose distribution is learned.
    """

    learned: Mapping[str, tuple[int, ...]]
    watched: Mapping[str, tuple[int, ...]]
    answers: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    teachers: Mapping[str, Recipe] = field(default_factory=dict)


@dataclass(eq=False)
class Lessons:
    """Makes lessons of the outcomes so far.

    Attributes:
        documents: the search documents, by task.
        seed: chooses the documents that are watched.
        objectives: the metrics of tasks that count.
        generated: the tasks whose answers are generated.
        parents: label of a baseline -> its recipe, of those that are parents.
    """

    kind: Kind
    documents: Documents
    seed: int
    objectives: Sequence[Objective] = ()
    generated: Collection[str] = ()
    parents: Mapping[str, Recipe] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._of_task: dict[str, list[Objective]] = {}
        for objective in self.objectives:
            self._of_task.setdefault(objective.task, []).append(objective)
        self._right: dict[str, dict[int, str]] = {}
        self._learned: set[tuple[str, int]] = set()
        """Task and id of the documents that some lesson learns."""
        self._left = ""
        """Names of the tasks that the last lesson leaves out."""
        self._best: dict[str, tuple[float, str, tuple[int, ...]]] = {}
        """Task -> value of the best parent, its label, and the documents that it answers right."""

    def add(self, label: str | None, scores: Scores) -> None:
        """Take the outcome of a baseline or, without label, of a candidate."""
        for task, texts in scores.right.items():
            self._right[task] = {**texts, **self._right.get(task, {})}
        if label in self.parents:
            for task, objectives in self._of_task.items():
                value, best = fitness(objectives, scores), self._best.get(task)
                if not math.isnan(value) and (best is None or value > best[0]):
                    ids = set.intersection(*(_answered(each, scores) for each in objectives))
                    self._best[task] = value, str(label), tuple(sorted(ids))

    def next(self) -> Lesson:
        """Return what a descent that begins now learns; SearchError: there is nothing."""
        answers: Mapping[str, Mapping[int, str]] = {}
        teachers: Mapping[str, Recipe] = {}
        documents = self.documents
        if self.kind == "successes":
            answers = {task: dict(texts) for task, texts in self._right.items()}
            documents = {
                task: tuple(answers.get(task, ())) if task in self.generated else ids
                for task, ids in documents.items()
            }
        elif self.kind == "experts":
            documents = {task: ids for task, (_, _, ids) in self._best.items() if ids}
            teachers = {task: self.parents[self._best[task][1]] for task in documents}
        documents = {task: ids for task, ids in documents.items() if ids}
        who = "parent" if self.kind == "experts" else "parent or candidate"
        if not documents:
            raise SearchError(
                f"`optimizer.loss` is {self.kind}, but no {who} has answered a search document "
                "right, so there is nothing to learn; set it to reference if the tasks have "
                "reference answers, or take another optimizer."
            )
        left = ", ".join(sorted(self.documents.keys() - documents.keys()))
        if left not in ("", self._left):
            log.warning(
                "No %s has answered a search document of %s right, so the descent that begins now "
                "does not learn it (`optimizer.loss` is %s).",
                who,
                left,
                self.kind,
            )
        self._left = left
        learned, watched = divided(documents, self.seed, self._learned)
        self._learned |= {(task, i) for task, ids in learned.items() for i in ids}
        return Lesson(learned, watched, answers, teachers)


def _answered(objective: Objective, scores: Scores) -> set[int]:
    """Return the documents that were answered right: at least half of 1, or of the best.

    All of them, if the metric has no values of documents, if one is below 0, or if lower is better.
    """
    ids, values = scores.documents[objective.task], scores.values.get(objective.key)
    if values is None or not objective.higher_is_better or any(value < 0 for value in values):
        return set(ids)
    half = max(1.0, *values) / 2
    return {i for i, value in zip(ids, values, strict=True) if value >= half}


def divided(
    documents: Documents, seed: int, before: Collection[tuple[str, int]] = ()
) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Return the documents that are learned from, and those that are watched.

    `before` are those (task, id) that were learned from, so that they cannot be watched.
    """
    learned, watched = dict[str, tuple[int, ...]](), dict[str, tuple[int, ...]]()
    for task, ids in documents.items():
        order = sorted(ids)
        random.Random(f"{seed} watched {task}").shuffle(order)
        unseen = [i for i in order if (task, i) not in before][: int(WATCHED * len(order))]
        unseen = unseen if len(unseen) >= LEAST_WATCHED else []
        learned[task] = tuple(sorted({*order}.difference(unseen)))
        if unseen:
            watched[task] = tuple(sorted(unseen))
    return learned, watched
