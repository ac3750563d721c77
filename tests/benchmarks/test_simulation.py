"""The simulated executor of `benchmarks/scale.py` keeps the laws, and known efficiencies."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from executor_laws import Pretend, check_executor, job_of
from scaling.simulation import SimulatedExecutor, Uneven

from evomerge.execute.protocol import Executor, RunJob

pytestmark = pytest.mark.thorough

EQUAL = {"mean": 1e6, "sigma": 0.0, "stragglers": 0.0, "failures": 0.0}
"""Candidates of equal times, so long that the time of messages is nothing."""


class Stopped:
    """The clock of a driver that takes the same time for each call, in seconds."""

    def __init__(self, each: float = 0.0) -> None:
        self.each, self.total = each, 0.0

    @property
    def seconds(self) -> float:
        self.total += self.each
        return self.total


def test_it_keeps_the_laws_of_executors():
    def create(make: Callable[[], RunJob]) -> Executor:
        return SimulatedExecutor(3, Uneven(**EQUAL), Stopped(), make())

    check_executor(create, survives=False)


@pytest.mark.parametrize("workers, jobs, busy", [(4, 12, 1.0), (4, 9, 0.75), (8, 4, 0.5)])
def test_equal_jobs_leave_only_the_workers_unused_that_have_no_job(workers, jobs, busy):
    executor = SimulatedExecutor(workers, Uneven(**EQUAL), Stopped(), Pretend().outcome)
    executor.submit([job_of(number, number) for number in range(jobs)])
    for _ in range(jobs):
        executor.next()
    assert executor.done / (workers * executor.now) == pytest.approx(busy, abs=1e-3)


def test_a_slow_driver_is_the_limit_of_many_workers():
    # Each job takes 10 s, and the driver 1 s for each call, two of them for each job: so there are
    # never more than about 5 jobs at work.
    uneven = Uneven(**(EQUAL | {"mean": 10.0}))
    executor = SimulatedExecutor(100, uneven, Stopped(0.5), Pretend().outcome)
    for number in range(40):
        executor.submit([job_of(number, number)])
        if number >= 20:
            executor.next()
    assert executor.done / executor.now < 12
