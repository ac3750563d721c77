"""The simulated executor of `benchmarks/scale.py` keeps the laws, and known efficiencies."""

import itertools

import pytest
from executor_laws import MakesWorker, Pretend, check_executor, job_of
from scale import SimulatedExecutor

from evomerge.execute.protocol import Executor, Job
from evomerge.scores import Outcome

pytestmark = pytest.mark.thorough

LONG = 1e6
"""Seconds of a candidate, beside which the time of messages is nothing."""


def pretended(job: Job, mean: float) -> tuple[float, Outcome]:
    return mean, Pretend().outcome(job)


def executor_of(width: int, mean: float = LONG, each: float = 0.0) -> SimulatedExecutor:
    """Return an executor whose driver takes the same time for each call, in seconds."""
    calls = itertools.count()
    return SimulatedExecutor(width, mean, pretended, lambda: each * next(calls))


def test_it_keeps_the_laws_of_executors():
    def create(plan: MakesWorker) -> Executor:
        run = plan.make()
        return SimulatedExecutor(3, LONG, lambda job, mean: (mean, run(job)), lambda: 0.0)

    check_executor(create, survives=False)


@pytest.mark.parametrize("workers, jobs, busy", [(4, 12, 1.0), (4, 9, 0.75), (8, 4, 0.5)])
def test_equal_jobs_leave_only_the_workers_unused_that_have_no_job(workers, jobs, busy):
    executor = executor_of(workers)
    assert len(list(executor.run(map(job_of, range(jobs))))) == jobs
    assert executor.done / (workers * executor.now) == pytest.approx(busy, abs=1e-3)


def test_a_slow_driver_is_the_limit_of_many_workers():
    # Each job takes 10 s, and the driver 0.5 s before and after it: so there are
    # never more than about 5 jobs at work.
    executor = executor_of(100, 10.0, each=0.5)
    list(executor.run(map(job_of, range(40))))
    assert executor.done / executor.now < 12
