"""One process's share of the work: recipe -> resident model -> scores."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, Protocol

from evomerge.errors import (
    CandidateError,
    CheckpointError,
    ConfigError,
    DeviceError,
    SearchError,
    one_line,
)
from evomerge.evaluate.evaluator import Evaluator
from evomerge.evaluate.fidelity.protocol import Fidelity, score_by
from evomerge.evaluate.inference.fingerprint import hollow
from evomerge.evaluate.inference.memory import is_device_failure
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

    Where an objective function has changed the model, everything is made again from the parents,
    as a new process would, before anything else is scored.

    Args:
        make: makes the resident model and the merged model's tokenizer.
        evaluator: the scoring of documents.
        splits: split -> task -> document ids.
        first: a recipe with sensible weights, on which the fastest right way to score is found.
        objectives: what candidates are compared on.
        fidelity: how many documents a job gets that names an incumbent.
    """

    def __init__(
        self,
        make: Callable[[], tuple[Builder, Any]],
        evaluator: Evaluator,
        splits: Mapping[Split, Mapping[str, Sequence[int]]],
        first: Recipe,
        *,
        objectives: Sequence[Objective] = (),
        fidelity: Fidelity | None = None,
    ) -> None:
        self.evaluator, self.objectives, self.fidelity = evaluator, objectives, fidelity
        self._make, self._splits, self._first = make, splits, first
        self._builder: Builder | None = None
        self._model: Any = None
        self._prepare()

    def __call__(
        self, job: Job, around: Callable[[Any], AbstractContextManager[None]] = nullcontext
    ) -> Outcome:
        """Run one job.

        Args:
            job: what to build and score.
            around: gets the model; lm-eval's tasks are scored inside of what it returns.

        Raises:
            EvomergeError: something outside of the candidate is wrong.
        """
        stage = "merge"
        try:
            if self.evaluator.is_spoilt:
                self._renew()
            began = time.perf_counter()
            model = self.build(job.recipe)
            merged = time.perf_counter() - began
            stage = "evaluate"
            self.evaluator.lend(lambda: self._renew(job.recipe), around)
            scores = self.score(job, model)
        except CandidateError as error:
            return Failure(stage, one_line(error))
        except (KeyboardInterrupt, CheckpointError, ConfigError, SearchError):
            raise
        except OSError as error:
            raise SearchError(_what_is_gone(error, stage, job)) from error
        except BaseException as error:  # SystemExit and the like must not end a search either
            if is_device_failure(error):
                raise DeviceError(_what_is_broken(error, stage, job)) from error
            return Failure(stage, f"{type(error).__name__}: {one_line(error)}")
        return replace(scores, seconds={"merge": merged, **scores.seconds})

    def _prepare(self) -> None:
        self._builder, tokenizer = self._make()
        self.evaluator.prepare(self.build(self._first), tokenizer, self._splits)

    def build(self, recipe: Recipe) -> Any:
        """Make a recipe's model; the last one's weights may be overwritten."""
        assert self._builder is not None
        self._model = self._builder.apply(recipe)
        return self._model

    def _renew(self, recipe: Recipe | None = None) -> Any:
        """Make everything again that a function may have changed, and build a recipe, if any.

        Raises:
            EvomergeError: that is not possible, though it was before.
        """
        halvings = self.evaluator.halvings
        self.evaluator.release()
        # Whoever still holds the old model holds no memory with it: there may not be room for two.
        hollow(self._model)
        self._builder = self._model = None
        try:
            self._prepare()
            self.evaluator.halve_batches(halvings)
            return None if recipe is None else self.build(recipe)
        except (CheckpointError, ConfigError, SearchError, OSError):
            raise
        except Exception as error:
            if is_device_failure(error):
                raise
            raise SearchError(  # not the candidate's fault, which was built before
                f"The model could not be built anew after an objective had changed it "
                f"({type(error).__name__}: {one_line(error)}); go on with `evomerge resume`."
            ) from error

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


def _what_is_broken(error: BaseException, stage: str, job: Job) -> str:
    return (
        f"The device failed in the stage {stage!r} of candidate {job.candidate} "
        f"({one_line(error).rstrip('.')}). Go on with `evomerge resume`; a candidate with which "
        "this happens again and again is given up."
    )
