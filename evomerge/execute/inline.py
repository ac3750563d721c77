"""The executor `inline`: candidates run one after the other in the process of the search."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, ClassVar, Literal

from evomerge.config.evaluation import EvaluationConfig
from evomerge.config.executor import ExecutorKind, Workers
from evomerge.execute.protocol import Attempts, Job, Result, RunJob

if TYPE_CHECKING:
    from evomerge.problem.problem import Problem
    from evomerge.run.logbook import Logbook


class Inline(ExecutorKind):
    """Runs candidates in the process of the search."""

    about = "in the process of the search"
    in_process: ClassVar[bool] = True

    kind: Literal["inline"] = "inline"
    """inline: in the process of the search"""

    rules = (
        (
            lambda it: it.workers not in (1, "auto"),
            "has `workers` {0.workers}, but the inline executor has exactly 1; set it to 1, or "
            "`kind` to 'processes'",
        ),
        (
            lambda it: it.timeout is not None,
            "has `timeout` {0.timeout:g}, but candidates that run in this process cannot be ended; "
            "set `kind` to 'processes', or remove it",
        ),
    )

    def count_workers(self, evaluation: EvaluationConfig) -> Workers:
        """Return the one worker."""
        return Workers(text="1, in this process")

    def check(self, evaluation: EvaluationConfig) -> None:
        """Check that there are as many accelerators as an engine is divided over."""
        from evomerge.execute.devices import check_accelerators

        check_accelerators(evaluation)

    def make(self, problem: Problem, logbook: Logbook) -> InlineExecutor:
        """Return the executor of a run; when it is closed, torch has the threads that it had."""
        from evomerge.device import torch_threads
        from evomerge.execute.worker import Worker

        history, end = logbook.history, ExitStack()
        end.enter_context(torch_threads())
        worker = Worker(problem, threads=history.threads, is_new=not history.finished)
        logbook.note_threads(worker.threads)
        return InlineExecutor(worker, Attempts(logbook.run.path), end)


class InlineExecutor:
    """Runs one job after the other in this process; see `evomerge.execute.protocol.Executor`."""

    def __init__(self, run: RunJob, attempts: Attempts, end: ExitStack | None = None) -> None:
        self._run, self._attempts, self._end = run, attempts, end or ExitStack()

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Result]]:
        """Run jobs; see `Executor`."""
        for job in jobs:
            outcome: Result | None = self._attempts.given_up(job)
            if outcome is None:
                with self._attempts.trying(job):
                    outcome = self._run(job)
            yield job, outcome

    def close(self) -> None:
        """Undo what was set up for the worker."""
        self._end.close()
