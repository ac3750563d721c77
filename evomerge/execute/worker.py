"""The worker: builds and scores candidates in one process, one after the other."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import KW_ONLY, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from evomerge.device import (
    free_weights,
    is_device_failure,
    is_exhausted,
    peak_memory,
)
from evomerge.errors import (
    CandidateError,
    CheckpointError,
    ConfigError,
    DeviceError,
    EvomergeError,
    SearchError,
    one_line,
)
from evomerge.evaluation.evaluator import Evaluator, score_single
from evomerge.evaluation.inference.features import ImageFeatures
from evomerge.evaluation.loss import Loss
from evomerge.evaluation.tasks.objective import traceback_lines
from evomerge.execute.chunk import Stepper
from evomerge.execute.protocol import Job, Result
from evomerge.recipe import Recipe
from evomerge.scores import Failure, Objective, Scores, Split
from evomerge.space.protocol import Space

if TYPE_CHECKING:
    from evomerge.merging.resident import Resident

log = logging.getLogger(__name__)


Times: TypeAlias = dict[str, tuple[float, float]]
"""Phase of a job that has ended -> its wall-clock seconds, and CPU seconds of this process."""

_NOT_ITS_FAULT = (KeyboardInterrupt, CheckpointError, ConfigError, SearchError)


@contextmanager
def _phase(times: Times, name: str) -> Iterator[None]:
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        yield
    finally:
        times[name] = time.perf_counter() - wall, time.process_time() - cpu


@dataclass(eq=False)
class Worker:
    """Builds and scores candidates.

    If building or scoring a candidate raises anything, its outcome is a `Failure`. An error that
    is not the candidate's fault is raised: a missing file or a broken device would make every later
    candidate fail too.

    Attributes:
        make: makes the resident model and the tokenizer of the merged models.
        splits: split -> task -> document ids.
        baselines: recipes of ordinary models. On the first of them that can be built, the evaluator
            tries out which ways to score are correct, and takes the fastest.
        deepest: a recipe with as many blocks as a candidate can have, for engines whose depth is
            fixed; None: the baselines are.
        load_parent: loads a parent as itself: reference -> model, tokenizer.
        space: the genes that the chunks of descents move.
        keeps_right: whether scores have the answers that are right (`Scores.right`).
        features: maximum bytes of image features that are kept for later candidates, if any.
        threads: number of CPU threads that torch scores with; whoever makes the worker sets it.
    """

    make: Callable[[], tuple[Resident, Any]]
    evaluator: Evaluator
    splits: Mapping[Split, Mapping[str, Sequence[int]]]
    baselines: Sequence[Recipe]
    _: KW_ONLY
    deepest: Recipe | None = None
    objectives: Sequence[Objective] = ()
    load_parent: Callable[[str], tuple[Any, Any]] | None = None
    space: Space | None = None
    keeps_right: bool = False
    features: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        self._features = ImageFeatures(self.features)
        self._resident: Resident | None = None
        self._model: Any = None
        self._stepper: Stepper | None = None
        try:
            self._prepare()
        except Exception as error:  # transformers raises anything for a config that does not fit
            is_said = isinstance(error, (EvomergeError, OSError))
            if is_said or is_device_failure(error) or is_exhausted(error):
                raise
            raise CheckpointError(
                f"The first model could be built but not scored ({type(error).__name__}: "
                f"{one_line(error)}); compare the host's config.json with that of the model that "
                "it was made from (--debug shows the traceback)."
            ) from error

    def __call__(self, job: Job) -> Result:
        """Run one job.

        Raises:
            EvomergeError: something other than the candidate is at fault.
        """
        times: Times = {}
        try:
            outcome = self._run(job, times)
        except BaseException as error:  # a SystemExit in a function must not end the search
            phase = next(reversed(times), "prepare")
            outcome = _failure(error, job, "merge" if phase == "prepare" else phase)
        seconds = {phase: wall for phase, (wall, _) in times.items()}
        cpu_seconds = {phase: cpu for phase, (_, cpu) in times.items()}
        return replace(outcome, seconds=seconds, cpu_seconds=cpu_seconds, peak=peak_memory())

    def _run(self, job: Job, times: Times) -> Result:
        if job.chunk is not None:
            assert self.space is not None
            with _phase(times, "descend"):
                resident = self._ready()
                if self._stepper is None:
                    loss = Loss(self.evaluator, self.objectives)
                    self._stepper = Stepper(self.space, resident, loss)
                return self._stepper.make(job.chunk)
        if job.as_itself:
            with _phase(times, "evaluate"):
                return self._score_parent(job)
        model = self.build(job.recipe, times)
        with _phase(times, "evaluate"):
            scoring_context = self._keep_features if self.features else nullcontext
            self.evaluator.set_callbacks(partial(self.build, job.recipe), scoring_context)
            return self.score(job, model)

    def _keep_features(self, model: Any) -> AbstractContextManager[None]:
        return self._features.kept(model, self._ready().tower)

    def try_functions(self) -> None:
        """Call each objective function with one document of a parent, before the first candidate.

        ConfigError: it fails.
        """
        if not any(item.is_foreign for item in self.evaluator.default.objectives):
            return
        first = self.baselines[0]
        self.evaluator.set_callbacks(partial(self.build, first))
        try:
            self.evaluator.try_out(self.build(first), foreign=True)
        except CandidateError as error:
            raise ConfigError(
                f"{str(error).rstrip('.')}; it was tried with one document before the search, so "
                "repair the function."
            ) from error

    def _prepare(self) -> None:
        self._resident, tokenizer = self.make()
        reason = "there are none"
        for recipe in self.baselines:
            deepest = partial(self.build, self.deepest or recipe)
            try:
                self.evaluator.prepare(self.build(recipe), tokenizer, self.splits, deepest)
            except CandidateError as error:  # its candidate will be a row that is marked as failed
                reason = str(error).rstrip(".")
            else:
                return
        raise CheckpointError(
            "None of the parents, nor their average, is a model that can be scored, the last one "
            f"for this reason: {reason}; give parents whose weights are finite numbers."
        )

    def build(self, recipe: Recipe, times: Times | None = None) -> Any:
        """Return a recipe's model; it may take the memory of the last one."""
        resident, times = self._ready(), {} if times is None else times
        with _phase(times, "prepare"):
            prepared = resident.prepare(recipe)
        with _phase(times, "merge"):
            self._model = resident.write(prepared)
        return self._model

    def _score_parent(self, job: Job) -> Scores:
        """Score a parent as itself, in place of the resident model: two may not fit in memory."""
        assert self.load_parent is not None
        self._drop(engine=True)
        try:
            return score_single(
                self.evaluator,
                partial(self.load_parent, job.recipe.host),
                job.split,
                self.splits[job.split],
                examples=job.examples,
                ready=lambda model: self.evaluator.halve_batches(job.oom_backoffs),
            )
        except (CheckpointError, ConfigError, CandidateError) as error:
            raise CandidateError(
                f"{job.recipe.host!r} cannot be scored as itself: {error}"
            ) from error
        finally:
            self.evaluator.release(engine=True)

    def _drop(self, *, engine: bool = False) -> None:
        self.evaluator.release(engine=engine)
        free_weights(self._model)  # a function may keep it
        self._resident = self._model = self._stepper = None

    def _ready(self) -> Resident:
        """Return the resident model, made again if it was dropped.

        If an objective function has had the model, all of its tensors are written again.
        """
        if self._resident is None:
            oom_backoffs = self.evaluator.oom_backoffs
            self._drop()  # as two models may not fit
            self._prepare()
            self.evaluator.halve_batches(oom_backoffs)
        assert self._resident is not None
        if self.evaluator.forget_touch():
            self._resident.forget()
        return self._resident

    def score(self, job: Job, model: Any) -> Scores:
        """Score a model on the documents of a job."""
        self.evaluator.halve_batches(job.oom_backoffs)
        scores = self.evaluator.score(model, job.split, job.documents)
        examples = self.evaluator.examples(scores, job.split, job.examples)
        if self.keeps_right and job.split == "search":
            scores = replace(scores, right=self._right(scores))
        return replace(scores, oom_backoffs=self.evaluator.oom_backoffs, examples=examples)

    def _right(self, scores: Scores) -> dict[str, dict[int, str]]:
        """Return the generated answers to documents for which the metric of all objectives is 1."""
        info, right = self.evaluator.info, dict[str, set[int]]()
        for item in info.of_tasks(self.objectives):
            documents, values = scores.documents[item.task], scores.values.get(item.key, ())
            ids = {i for i, value in zip(documents, values, strict=False) if value == 1}
            right[item.task] = right.get(item.task, ids) & ids
        return {
            task: self.evaluator.tasks_of("search").of(task).texts(task, sorted(ids))
            for task, ids in right.items()
            if ids and info.tasks[task].generates
        }


def _failure(error: BaseException, job: Job, stage: str) -> Failure:
    """Return the outcome of a candidate that raised an error; raise what is not its fault."""
    if isinstance(error, _NOT_ITS_FAULT):
        raise error
    if isinstance(error, OSError):
        place = f" ({error.filename})" if error.filename else ""
        raise SearchError(
            f"Candidate {job.candidate} stopped in the stage {stage!r} for a reason that is not "
            f"the candidate's fault: {error.strerror or one_line(error)}{place}; check that disks, "
            "mounts and devices are there and have free space, then go on with `evomerge resume`."
        ) from error
    if is_device_failure(error):
        raise DeviceError(
            f"The device failed in the stage {stage!r} of candidate {job.candidate} "
            f"({one_line(error).rstrip('.')}); go on with `evomerge resume`, which marks a "
            "candidate with which this happens three times as failed."
        ) from error
    is_known = isinstance(error, CandidateError)
    cause = error.__cause__ if is_known else error
    if cause is not None:  # other code has raised it
        lines = traceback_lines(cause)
        log.info("Candidate %d failed in the stage %r:\n%s", job.candidate, stage, lines)
    return Failure(
        stage, one_line(error) if is_known else f"{type(error).__name__}: {one_line(error)}"
    )
