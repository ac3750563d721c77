"""One process's share of the work: recipe -> resident model -> scores."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, Protocol

from evomerge.errors import CandidateError
from evomerge.evaluate.evaluator import Evaluator
from evomerge.execute.protocol import Job
from evomerge.recipe import Recipe
from evomerge.scores import Failure, Outcome, Split


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
    """

    def __init__(
        self,
        builder: Builder,
        evaluator: Evaluator,
        tokenizer: Any,
        splits: Mapping[Split, Mapping[str, Sequence[int]]],
        first: Recipe,
    ) -> None:
        self.builder, self.evaluator = builder, evaluator
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
                scores = self.evaluator.score(model, job.split)
        except CandidateError as error:
            return Failure(stage, str(error))
        except Exception as error:
            lines = str(error).strip().splitlines() or ["no message"]
            return Failure(stage, f"{type(error).__name__}: {lines[0]}")
        return replace(scores, seconds={"merge": merged, **scores.seconds})
