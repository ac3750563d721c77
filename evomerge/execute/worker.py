"""The worker: builds and scores candidates in one process, one after the other."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from evomerge import device
from evomerge.errors import (
    CandidateError,
    CheckpointError,
    ConfigError,
    DeviceError,
    EvomergeError,
    SearchError,
    one_line,
)
from evomerge.evaluation.evaluator import score_single
from evomerge.evaluation.inference.features import ImageFeatures
from evomerge.evaluation.objectives import needed_parts
from evomerge.evaluation.tasks.objective import traceback_lines
from evomerge.execute.protocol import Job, Result, WorkResult
from evomerge.merging.tokenizers.plan import plan_tokenizer
from evomerge.problem.problem import Problem, load_parent, place, threads_of
from evomerge.recipe import Recipe
from evomerge.scores import Failure, Scores

if TYPE_CHECKING:
    from evomerge.merging.resident import Resident

log = logging.getLogger(__name__)


T = TypeVar("T")

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


class Worker:
    """Builds and scores the candidates of a problem.

    If building or scoring a candidate raises anything, its outcome is a `Failure`. An error that
    is not the candidate's fault is raised: a missing file or a broken device would make every later
    candidate fail too.

    On the first of the baselines that can be built, the evaluator tries out which ways to score are
    correct, and takes the fastest.

    Attributes:
        threads: number of CPU threads that torch scores with.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        neighbours: int = 1,
        threads: int | None = None,
        is_new: bool = False,
    ) -> None:
        """Make the resident model and the tokenizer, and prepare the documents.

        Args:
            problem: the problem.
            neighbours: number of workers that share the memory of this machine.
            threads: CPU threads to score with, as an earlier session has chosen; None: choose.
            is_new: whether no candidate was scored yet, so that objective functions are tried.

        Raises:
            InputError: a parent cannot be loaded, a task has changed since the run was started, or
                an objective function fails on parents.
        """
        self.problem, self.evaluator = problem, problem.evaluator
        self.threads = threads or threads_of(problem.config, problem.checkpoints[problem.host])
        self._neighbours, self._keeps_right = neighbours, problem.config.optimizer.keeps_right
        self._baselines = list(problem.space.baselines().values())
        shows_images = any(task.shows_images for task in self.evaluator.info.tasks.values())
        self._features = ImageFeatures(self._cache_memory() // 2) if shows_images else None
        self._resident: Resident | None = None
        self._model: Any = None
        self._kept: dict[Any, Any] = {}
        try:
            self._prepare()
        except Exception as error:  # transformers raises anything for a config that does not fit
            is_said = isinstance(error, (EvomergeError, OSError))
            if is_said or device.is_device_failure(error) or device.is_exhausted(error):
                raise
            raise CheckpointError(
                f"The first model could be built but not scored ({type(error).__name__}: "
                f"{one_line(error)}); compare the host's config.json with that of the model that "
                "it was made from (--debug shows the traceback)."
            ) from error
        device.use_threads(self.threads)
        if is_new:
            self._try_functions()

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
        return replace(outcome, seconds=seconds, cpu_seconds=cpu_seconds, peak=device.peak_memory())

    def _run(self, job: Job, times: Times) -> Result:
        if job.work is not None:
            with _phase(times, job.work.phase):
                return WorkResult(fields=job.work.run(self))
        if job.texts:
            self.evaluator.give_texts(job.texts)
        if job.as_itself:
            with _phase(times, "evaluate"):
                return self._score_parent(job)
        model = self.build(job.recipe, times)
        with _phase(times, "evaluate"):
            scoring_context = self._keep_features if self._features else nullcontext
            self.evaluator.set_callbacks(partial(self.build, job.recipe), scoring_context)
            return self.score(job, model)

    def _keep_features(self, model: Any) -> AbstractContextManager[None]:
        assert self._features is not None
        return self._features.kept(model, self.resident().tower)

    def _try_functions(self) -> None:
        """Call each objective function with one document of a parent, before the first candidate.

        ConfigError: it fails.
        """
        if not any(item.is_foreign for item in self.evaluator.default.objectives):
            return
        first = self._baselines[0]
        self.evaluator.set_callbacks(partial(self.build, first))
        try:
            self.evaluator.try_out(self.build(first), foreign=True)
        except CandidateError as error:
            raise ConfigError(
                f"{str(error).rstrip('.')}; it was tried with one document before the search, so "
                "repair the function."
            ) from error

    def _load(self) -> tuple[Resident, Any]:
        """Return a new resident model and the tokenizer of the merged models."""
        from evomerge.merging.backend import tokenizer
        from evomerge.merging.resident import Resident

        config, checkpoints = self.problem.config, self.problem.checkpoints
        first = self._baselines[0]
        resident = Resident(
            checkpoints,
            first.host,
            first.dtype,
            place(config),
            tokenizer=plan_tokenizer(first, checkpoints),
            memory=self._cache_memory(),
            release=config.space.has_pool,
            parts=needed_parts(config),
        )
        return resident, tokenizer(checkpoints, first)

    def _cache_memory(self) -> int:
        """Return the bytes for caches of this worker: a quarter of its part of the free memory."""
        return device.free_memory() // self._neighbours // 4

    def _build_deepest(self) -> Any:
        """Return a model with as many blocks as the space allows, for engines of a fixed depth."""
        problem, recipe = self.problem, self._baselines[0]
        stack = problem.checkpoints[problem.host].decoder_stack.prefix
        blocks = recipe.layers[stack]
        added = blocks[-1:] * (problem.space.max_depth - len(blocks))
        return self.build(replace(recipe, layers={**recipe.layers, stack: (*blocks, *added)}))

    def _prepare(self) -> None:
        self._resident, tokenizer = self._load()
        splits, reason = self.problem.splits, "there are none"
        for recipe in self._baselines:
            try:
                self.evaluator.prepare(self.build(recipe), tokenizer, splits, self._build_deepest)
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
        resident, times = self.resident(), {} if times is None else times
        with _phase(times, "prepare"):
            prepared = resident.prepare(recipe)
        with _phase(times, "merge"):
            self._model = resident.write(prepared)
        return self._model

    def _score_parent(self, job: Job) -> Scores:
        """Score a parent as itself, in place of the resident model: two may not fit in memory."""
        self._drop(engine=True)
        try:
            return score_single(
                self.evaluator,
                partial(load_parent, self.problem, job.recipe.host),
                job.split,
                job.documents or self.problem.splits[job.split],
                examples=job.examples,
                ready=lambda model: self.evaluator.halve_batches(job.oom_backoffs),
            )
        except (CheckpointError, ConfigError, CandidateError) as error:
            raise CandidateError(
                f"{job.recipe.host!r} cannot be scored as itself: {error}"
            ) from error
        finally:
            self.evaluator.release(engine=True)

    def load_alone(self, reference: str) -> tuple[Any, Any]:
        """Return model and tokenizer of a parent as itself; until then the others are dropped."""
        self._drop(engine=True)
        return load_parent(self.problem, reference)

    def _drop(self, *, engine: bool = False) -> None:
        self.evaluator.release(engine=engine)
        device.free_weights(self._model)  # a function may keep it
        self._resident = self._model = None
        self._kept.clear()

    def keep(self, make: Callable[[Worker], T]) -> T:
        """Return what a function makes of this worker, made once for each resident model."""
        self.resident()
        if make not in self._kept:
            self._kept[make] = make(self)
        made: T = self._kept[make]
        return made

    def resident(self) -> Resident:
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
        if self._keeps_right and job.split == "search":
            scores = replace(scores, right=self._right(scores))
        return replace(scores, oom_backoffs=self.evaluator.oom_backoffs, examples=examples)

    def _right(self, scores: Scores) -> dict[str, dict[int, str]]:
        """Return the generated answers to documents for which the metric of all objectives is 1."""
        info, right = self.evaluator.info, dict[str, set[int]]()
        for item in info.of_tasks(self.problem.objectives):
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
    if device.is_device_failure(error):
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
