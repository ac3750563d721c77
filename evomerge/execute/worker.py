"""One process's share of the work: recipe -> resident model -> scores."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, Protocol

from evomerge.errors import CandidateError, CheckpointError, ConfigError, SearchError, one_line
from evomerge.evaluate.evaluator import Evaluator
from evomerge.evaluate.fidelity.protocol import Fidelity, score_by
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
    """Builds and scores candidates.

    What is wrong with a candidate becomes a `Failure`, whatever its code raises. What is wrong
    with the world is raised: a file or a device that is gone would fail every candidate after it.

    Args:
        builder: the resident model.
        evaluator: the scoring of documents.
        tokenizer: the merged model's tokenizer.
        splits: split -> task -> document ids.
        first: a recipe with sensible weights, on which the fastest right way to score is found.
        objectives: what candidates are compared on.
        fidelity: how many documents a job gets that names an incumbent.
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
    ) -> None:
        self.builder, self.evaluator = builder, evaluator
        self.objectives, self.fidelity = objectives, fidelity
        evaluator.prepare(builder.apply(first), tokenizer, splits)

    def __call__(
        self, job: Job, around: Callable[[Any], AbstractContextManager[None]] = nullcontext
    ) -> Outcome:
        """Run one job.

        Args:
            job: what to build and score.
            around: gets the model; the scoring runs inside of what it returns.

        Raises:
            EvomergeError: something outside of the candidate is wrong.
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
            return Failure(stage, one_line(error))
        except (KeyboardInterrupt, CheckpointError, ConfigError, SearchError):
            raise
        except OSError as error:
            raise SearchError(_what_is_gone(error, stage, job)) from error
        except BaseException as error:  # SystemExit and the like must not end a search either
            return Failure(stage, f"{type(error).__name__}: {one_line(error)}")
        return replace(scores, seconds={"merge": merged, **scores.seconds})

    def score(self, job: Job, model: Any) -> Scores:
        """Score a model on the documents a job asks for."""
        self.evaluator.halve_batches(job.halvings)
        if job.incumbent is None or self.fidelity is None:
            scores = self.evaluator.score(model, job.split)
        else:
            scores = score_by(
                self.fidelity,
                self.evaluator,
                model,
                job.split,
                job.incumbent,
                job.earlier,
                self.objectives,
            )
        return replace(scores, halvings=self.evaluator.halvings)


def _what_is_gone(error: OSError, stage: str, job: Job) -> str:
    place = f" ({error.filename})" if error.filename else ""
    reason = error.strerror or one_line(error)
    return (
        f"Candidate {job.candidate} could not be handled in the stage {stage!r}, for a reason "
        f"outside of it: {reason}{place}. See that disks, mounts and devices are there and have "
        "room, then go on with `evomerge resume`."
    )
