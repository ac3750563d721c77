"""One process's share of the work: recipe -> resident model -> scores."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, Protocol

from evomerge.errors import CandidateError
from evomerge.evaluate.evaluator import Evaluator
from evomerge.evaluate.fidelity import Fidelity
from evomerge.evaluate.subsets import rotating
from evomerge.execute.protocol import Job
from evomerge.recipe import Recipe
from evomerge.scores import Failure, Objective, Outcome, Scores, Split


class Builder(Protocol):
    """Builds a recipe in memory."""

    def apply(self, recipe: Recipe) -> Any:
        """Return the model; the last one's weights may be overwritten.

        Raises:
            CandidateError: the recipe has no finite weights.
        """
        ...


class Worker:
    """Builds and scores candidates; a candidate that fails becomes a `Failure`, never an error.

    Args:
        builder: the resident model.
        evaluator: the scoring of documents.
        tokenizer: the merged model's tokenizer.
        splits: split -> task -> document ids.
        first: a recipe with sensible weights, on which the fastest right way to score is found.
        objectives: what candidates are compared on.
        fidelity: how many documents a job gets that names a leader to be compared with.
        subset: documents of each task in a rotating subset, for jobs that name one.
        seed: decides the rotating subsets.
        stratify: document field that rotating subsets hold in proportion.
    """

    def __init__(
        self,
        builder: Builder,
        evaluator: Evaluator,
        tokenizer: Any,
        splits: Mapping[Split, Mapping[str, Sequence[int]]],
        first: Recipe,
        *,
        objectives: Sequence[Objective] = (),
        fidelity: Fidelity | None = None,
        subset: int | None = None,
        seed: int = 0,
        stratify: str | None = None,
    ) -> None:
        self.builder, self.evaluator, self.splits = builder, evaluator, splits
        self.objectives, self.fidelity = objectives, fidelity
        self.subset, self.seed = subset, seed
        self.strata: dict[str, list[str]] = {}
        if stratify is not None and subset is not None:
            asked = evaluator.asked("search")
            self.strata = {
                task: asked.labels(task, stratify, ids) for task, ids in splits["search"].items()
            }
        evaluator.prepare(builder.apply(first), tokenizer, splits)

    def __call__(
        self, job: Job, around: Callable[[Any], AbstractContextManager[None]] = nullcontext
    ) -> Outcome:
        """Run one job.

        Args:
            job: what to build and score.
            around: gets the model; the scoring runs inside of what it returns.
        """
        stage = "merge"
        began = time.perf_counter()
        try:
            model = self.builder.apply(job.recipe)
            merged = time.perf_counter() - began
            stage = "evaluate"
            with around(model):
                scores = self.score(job, model)
        except CandidateError as error:
            return Failure(stage, str(error))
        except Exception as error:
            lines = str(error).strip().splitlines() or ["no message"]
            return Failure(stage, f"{type(error).__name__}: {lines[0]}")
        return replace(scores, seconds={"merge": merged, **scores.seconds})

    def score(self, job: Job, model: Any) -> Scores:
        """Score a model on the documents a job asks for."""
        if job.against is not None and self.fidelity is not None:
            return self.fidelity.run(
                self.evaluator, model, job.split, job.against, job.earlier, self.objectives
            )
        if job.subset is None or self.subset is None:
            return self.evaluator.score(model, job.split)
        size, turn = self.subset, job.subset
        chosen = {
            task: rotating(
                ids, min(size, len(ids)), turn, f"{self.seed}/{task}", self.strata.get(task)
            )
            for task, ids in self.splits[job.split].items()
        }
        return self.evaluator.score(model, job.split, chosen)
