"""The simulated executor of `benchmarks/scale.py` keeps the laws, and known efficiencies."""

import pytest
from executor_laws import MakesWorker, check_executor
from scale import SimulatedExecutor

from evomerge.execute.protocol import Executor

pytestmark = pytest.mark.thorough

LONG = 1e6
"""Seconds of a candidate, beside which the time of messages is nothing."""


def test_it_keeps_the_laws_of_executors():
    def create(plan: MakesWorker) -> Executor:
        run = plan.make()
        return SimulatedExecutor(3, LONG, lambda job, mean: (mean, run(job)), lambda: 0.0)

    check_executor(create, survives=False)
