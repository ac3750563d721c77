"""The laws of executors."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

import pytest

from evomerge.errors import SearchError
from evomerge.execute.protocol import Executor, Job, MakesWorker, RunJob
from evomerge.recipe import Layer, Recipe, Source
from evomerge.scores import Failure, Outcome, Scores, Split

_SPLITS: tuple[Split, ...] = ("search", "validation", "test")


MOST_WORKERS = 3
"""Largest number of jobs that run at a time in the executors that are checked."""


@dataclass(frozen=True)
class Pretend:
    """Makes what runs jobs, without models: the outcome of a job depends on the job alone."""

    failing: frozenset[int] = frozenset()
    ending: frozenset[int] = frozenset()
    broken: frozenset[int] = frozenset()
    hanging: frozenset[int] = frozenset()

    def make(self) -> RunJob:
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


def check_executor(create: Callable[[MakesWorker], Executor], *, survives: bool = True) -> None:
    """Check the laws of `evomerge.execute.protocol.Executor`.

    `create` returns a new executor, given what makes a worker.
    `survives`: the jobs run in other processes, so a candidate that ends its process is a failure.
    """
    _check_outcomes(create)
    _check_order(create)
    _check_faults(create)
    if survives:
        _check_losses(create)


def _check_outcomes(create: Callable[[MakesWorker], Executor]) -> None:
    pretend = Pretend(failing=frozenset((2, 7)))
    executor = create(pretend)
    for candidates in ([3, 2, 9], [7], [], [1, 4, 5, 6, 8, 10, 11]):
        jobs = [job_of(number) for number in candidates]
        found = []
        for job, outcome in executor.run(jobs):
            assert outcome == pretend.outcome(job), f"{job.candidate} has another's outcome."
            found.append(job.candidate)
        assert sorted(found) == sorted(candidates), "A job was lost, or came twice."
    next(executor.run([job_of(0), job_of(1)]))  # closed in the middle of a job
    executor.close()
    executor.close()


def _check_order(create: Callable[[MakesWorker], Executor]) -> None:
    """Check that jobs are taken as there is room: what comes next may depend on outcomes."""
    executor, found, ahead = create(Pretend()), list[int](), list[int]()

    def jobs() -> Iterator[Job]:
        for number in range(40):
            ahead.append(number - len(found))
            yield job_of(number)

    for job, _ in executor.run(jobs()):
        found.append(job.candidate)
    executor.close()
    assert sorted(found) == list(range(40)), "A job was lost, or came twice."
    assert max(ahead) <= MOST_WORKERS, "Jobs were taken before there was room for them."


def _check_faults(create: Callable[[MakesWorker], Executor]) -> None:
    executor = create(Pretend(broken=frozenset((4,))))
    with closing(executor), pytest.raises(SearchError, match="disk of candidate 4"):
        list(executor.run([job_of(4)]))


def _check_losses(create: Callable[[MakesWorker], Executor]) -> None:
    pretend = Pretend(ending=frozenset((2, 5)))
    executor = create(pretend)
    found = {job.candidate: (job, out) for job, out in executor.run(map(job_of, range(7)))}
    executor.close()
    assert sorted(found) == list(range(7)), "A job was lost, or came twice."
    for number, (job, outcome) in found.items():
        ends = number in pretend.ending
        is_lost = isinstance(outcome, Failure) and outcome.stage == "lost"
        assert is_lost or not ends, f"Job {number} ended its process, but is not `lost`."
        fits = ends or outcome == pretend.outcome(job)
        assert fits, f"Job {number} suffered for another job."


def job_of(candidate: int) -> Job:
    """Return a job for `Pretend`."""
    model = f"model{candidate}"
    copied = Layer("linear", (Source(model),))
    return Job(candidate, Recipe(model, {}, copied, copied), _SPLITS[candidate % 3])
