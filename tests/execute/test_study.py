"""The executor of studies gives jobs in their order, and takes outcomes in any."""

from __future__ import annotations

from executor_laws import job_of

from evomerge.execute.study import StudyExecutor
from evomerge.scores import Failure


def test_jobs_are_given_in_order_and_told_in_any() -> None:
    executor, jobs = StudyExecutor(), [job_of(number, number + 10) for number in range(4)]
    executor.submit(jobs)
    assert executor.waiting.popleft() is jobs[0]
    outcomes = {number: Failure("told", str(number)) for number in (12, 10)}
    for number, outcome in outcomes.items():  # nobody was given 12
        executor.tell(number, outcome)
    assert [executor.next() for _ in outcomes] == [
        (jobs[2], outcomes[12]),
        (jobs[0], outcomes[10]),
    ]
    assert executor.withdraw() == (jobs[1], jobs[3])
    assert not executor.open and not executor.waiting
