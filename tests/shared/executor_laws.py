"""The laws of executors."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace

import pytest

from evomerge.errors import SearchError
from evomerge.execute.protocol import Executor, Job, RunJob
from evomerge.recipe import Layer, Recipe, Source
from evomerge.scores import Failure, Outcome, Scores, Split
from evomerge.testing.require import require

_SPLITS: tuple[Split, ...] = ("search", "validation", "test")


@dataclass(frozen=True)
class Pretend:
    """Makes what runs jobs, without models: the outcome of a job depends on the job alone.

    Something else is at fault with `broken` candidates.
    """

    failing: frozenset[int] = frozenset()
    ending: frozenset[int] = frozenset()
    broken: frozenset[int] = frozenset()
    hanging: frozenset[int] = frozenset()

    def __call__(self) -> RunJob:
        """Return what runs a job."""
        return self._run

    def outcome(self, job: Job) -> Outcome:
        """Return the outcome of a job that ends no process."""
        if job.candidate in self.failing:
            return Failure("evaluate", f"Candidate {job.candidate} is made to fail.")
        value = job.candidate + _SPLITS.index(job.split) / 10
        return Scores({"task": (0, 1)}, {"task/acc": (value, value)}, {"task/acc": value})

    def _run(self, job: Job) -> Outcome:
        while job.candidate in self.hanging:
            time.sleep(60)
        if job.candidate in self.ending:
            os._exit(3)
        if job.candidate in self.broken:
            raise SearchError(f"The disk of candidate {job.candidate} is full.")
        return self.outcome(job)


def check_executor(
    create: Callable[[Callable[[], RunJob]], Executor], *, survives: bool = True
) -> None:
    """Check the laws of `evomerge.execute.protocol.Executor`.

    `create` returns a new executor, given a picklable function that makes what runs a job.
    `survives`: the jobs run in other processes, so a candidate that ends its process is a failure.
    """
    _check_outcomes(create)
    _check_withdrawal(create)
    _check_faults(create)
    if survives:
        _check_losses(create)


def _check_outcomes(create: Callable[[Callable[[], RunJob]], Executor]) -> None:
    pretend = Pretend(failing=frozenset((2, 7)))
    executor = create(pretend)
    require(executor.width >= 1, "The width is below 1.")
    batches = [[3, 2, 2, 9], [7], [1, 4, 5, 6, 8, 10, 11]]
    jobs: dict[int, Job] = {}
    found: list[int] = []
    for candidates in batches:
        batch = [job_of(len(jobs) + place, item) for place, item in enumerate(candidates)]
        jobs |= {job.id: job for job in batch}
        executor.submit(batch)
        found.append(_check_next(executor, jobs, pretend))
    while len(found) < len(jobs):
        found.append(_check_next(executor, jobs, pretend))
    require(sorted(found) == sorted(jobs), "A job was returned twice, and another one never.")
    executor.submit([replace(jobs[0], id=100)])  # closed in the middle of a job
    executor.close()
    executor.close()


def _check_next(executor: Executor, jobs: dict[int, Job], pretend: Pretend) -> int:
    """Check the next job and its outcome, and return its id."""
    job, outcome = executor.next()
    require(job == jobs.get(job.id), f"Job {job.id} is not the one that was submitted.")
    require(outcome == pretend.outcome(job), f"Job {job.id} has the outcome of another job.")
    return job.id


def _check_withdrawal(create: Callable[[Callable[[], RunJob]], Executor]) -> None:
    pretend = Pretend()
    executor = create(pretend)
    jobs = {number: job_of(number, number) for number in range(12)}
    executor.submit(list(jobs.values()))
    found = [_check_next(executor, jobs, pretend)]
    withdrawn = [job.id for job in executor.withdraw()]
    require(len(withdrawn) >= len(jobs) - 1 - 2 * executor.width, "Few jobs were withdrawn.")
    while len(found) + len(withdrawn) < len(jobs):
        found.append(_check_next(executor, jobs, pretend))
    require(sorted([*found, *withdrawn]) == sorted(jobs), "A withdrawn job was returned.")
    executor.submit([jobs[number] for number in withdrawn])
    again = [_check_next(executor, jobs, pretend) for _ in withdrawn]
    require(sorted(again) == sorted(withdrawn), "A withdrawn job could not be run later.")
    executor.close()


def _check_faults(create: Callable[[Callable[[], RunJob]], Executor]) -> None:
    executor = create(Pretend(broken=frozenset((4,))))
    with closing(executor), pytest.raises(SearchError, match="disk of candidate 4"):
        executor.submit([job_of(0, 4)])
        executor.next()


def _check_losses(create: Callable[[Callable[[], RunJob]], Executor]) -> None:
    pretend = Pretend(ending=frozenset((2, 5)))
    executor = create(pretend)
    jobs = [job_of(number, number) for number in range(7)]
    executor.submit(jobs)
    found = {job.id: outcome for job, outcome in (executor.next() for _ in jobs)}
    executor.close()
    require(len(found) == len(jobs), "A job was returned twice, and another one never.")
    for job in jobs:
        outcome, ends = found[job.id], job.candidate in pretend.ending
        is_lost = isinstance(outcome, Failure) and outcome.stage == "lost"
        require(is_lost or not ends, f"Job {job.id} ended its process, but is not `lost`.")
        fits = ends or outcome == pretend.outcome(job)
        require(fits, f"Job {job.id} suffered for another job.")


def job_of(number: int, candidate: int) -> Job:
    """Return a job for `Pretend`, whose id is the number."""
    model = f"model{candidate}"
    copied = Layer("linear", (Source(model),))
    return Job(number, candidate, Recipe(model, {}, copied, copied), _SPLITS[number % 3])
