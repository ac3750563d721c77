"""Plans of workers: what a process makes a worker of a run from."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from evomerge.config.record import Record
from evomerge.device import use_only
from evomerge.execute.worker import Worker
from evomerge.problem.problem import Problem, threads_of
from evomerge.problem.runs import reopen
from evomerge.run.logbook import Logbook
from evomerge.trust.code import NOTHING, Permissions


@dataclass(frozen=True, kw_only=True)
class WorkerPlan:
    """What a worker of a run is made from, in any process that sees the parents and tasks.

    Only the process of the search writes to the run folder, which need not be there.

    Attributes:
        record: the record of the run.
        folder: the run folder, from which relative paths start.
        threads: CPU threads to score with.
        is_new: see `Worker`, as for `neighbours`.
        devices: accelerators, all others are hidden from the process; none: as `evaluation.device`
            says.
    """

    record: Record
    folder: Path
    threads: int
    allowed: Permissions = NOTHING
    is_new: bool = False
    neighbours: int = 1
    devices: Sequence[str] = ()

    def make(self) -> Worker:
        """Return the worker; InputError: a parent or a task has changed since the run started."""
        use_only(self.devices)
        problem = reopen(self.record, self.folder, self.allowed)
        return Worker(problem, neighbours=self.neighbours, threads=self.threads, is_new=self.is_new)


def plan_worker(problem: Problem, logbook: Logbook, cores: int, **evaluation: str) -> WorkerPlan:
    """Return the plan of a run's workers, and journal how many of at most `cores` threads score.

    `evaluation` has values for this section in place of the run's.
    """
    history, record = logbook.history, logbook.run.record()
    config = record.config.with_values("evaluation", **evaluation)
    config = config.model_copy(update={"executor": problem.config.executor})  # of `resume`
    threads = history.threads or threads_of(config, problem.checkpoints[problem.host], cores)
    logbook.note_threads(threads)
    return WorkerPlan(
        record=record.model_copy(update={"config": config}),
        folder=logbook.run.path.absolute(),
        threads=threads,
        # What this process runs was allowed, or passed by the program, which a worker cannot know.
        allowed=replace(problem.allowed, trust_code=True),
        is_new=not history.finished,
    )
