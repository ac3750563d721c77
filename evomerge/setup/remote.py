"""Workers that are made from a run's frozen search file, in any process, and their executor.

What makes a worker is small and can be sent to any machine that sees the parents and the tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from evomerge.config.schema import SearchConfig, parse
from evomerge.evaluation.inference.device import use_only
from evomerge.execute.protocol import Executor, Job, RunJobs
from evomerge.execute.remote import RemoteExecutor, RemoteWorker, each_alone
from evomerge.run.activity import WORKERS, Activity
from evomerge.run.attempts import Attempts
from evomerge.run.folder import CONFIG, RunFolder
from evomerge.run.logbook import Logbook
from evomerge.setup.check import restore
from evomerge.setup.checked import CheckedSearch
from evomerge.setup.code_files import code_files
from evomerge.setup.executor import shares_prefixes
from evomerge.setup.runs import open_model
from evomerge.setup.worker import MemoryShare, make_worker, run_jobs
from evomerge.trust.consent import Consent


@dataclass(frozen=True)
class WorkerOfRun:
    """Makes a worker from a frozen search file, in any process that sees the parents.

    Attributes:
        config: the frozen search file.
        folder: folder of relative paths: the run folder. It need not be there.
        share: the worker's memory for caches.
        cores: largest number of CPU threads.
        threads: CPU threads that score a model; None: choose.
        digests: digests of the only code of tasks and functions that it may run.
        allow_pickle: whether parents may have pickled weights.
        allow_code: whether tasks may run code that models write.
        devices: accelerators, all others are hidden from the process; none: as `evaluation.device`
            says.
    """

    config: SearchConfig
    folder: Path
    share: MemoryShare
    cores: int
    threads: int | None
    digests: frozenset[str] = frozenset()
    allow_pickle: bool = False
    allow_code: bool = False
    devices: tuple[str, ...] = ()

    def on(self, devices: tuple[str, ...]) -> WorkerOfRun:
        """Return the same worker on other accelerators."""
        return replace(self, devices=devices)

    def on_cpu(self) -> WorkerOfRun:
        """Return the same worker without an accelerator."""
        evaluation = self.config.evaluation.model_copy(update={"device": "cpu"})
        return replace(self, config=self.config.model_copy(update={"evaluation": evaluation}))

    def __call__(self) -> RunJobs:
        """Return what runs the jobs.

        Raises:
            InputError: a parent or a task has changed since the run was started.
        """
        checked = self._problem()
        worker = make_worker(
            checked, self.share, self.threads, most_threads=self.cores, run=self.folder
        )
        return run_jobs(worker, self.config, self.share)

    def check(self) -> None:
        """Check the parents and the files with code.

        Raises:
            InputError: one of them is not there, or not the one that the run was started with.
        """
        checked = self._problem()
        checked.consent.require(code_files(checked.config))

    def choose_threads(self) -> int:
        """Return how many CPU threads a worker should score with."""
        return make_worker(self._problem(), self.share, most_threads=self.cores).threads

    def _problem(self) -> CheckedSearch:
        use_only(self.devices)
        return restore(
            self.config,
            self.folder,
            open_model,
            allow_pickle=self.allow_pickle,
            allow_code=self.allow_code,
            consent=Consent(digests=self.digests),
        )


def worker_of_run(
    checked: CheckedSearch, run: Path, logbook: Logbook, share: MemoryShare, cores: int
) -> WorkerOfRun:
    """Return what makes a worker of a run; see `WorkerOfRun`.

    The number of CPU threads is the one in the journal, or in the search file. It is 1 if there is
    no choice.
    """
    frozen = parse(RunFolder(run).config(), str(run / CONFIG))
    # The section `executor` may differ from the frozen one, since `resume` can change it.
    config = frozen.model_copy(update={"executor": checked.config.executor})
    wanted = config.evaluation.threads
    threads = logbook.history.threads if wanted == "auto" else wanted
    if threads is None and cores == 1:
        threads = 1
    code = code_files(checked.config)
    checked.consent.require(code)  # it may have changed since
    return WorkerOfRun(
        config,
        run.absolute(),
        share,
        cores,
        threads,
        frozenset(file.digest for file in code),
        checked.allow_pickle,
        checked.allow_code,
    )


def with_threads(worker: WorkerOfRun, logbook: Logbook, choose: Callable[[], int]) -> WorkerOfRun:
    """Return a worker whose number of CPU threads is set, and journal the number.

    Args:
        worker: the worker.
        logbook: writes the journal.
        choose: returns the number, measured in a process like those of the workers.
    """
    threads = worker.threads if worker.threads is not None else choose()
    logbook.note_threads(threads)
    return replace(worker, threads=threads)


def remote_executor(
    config: SearchConfig, run: Path, attempts: Attempts, workers: Sequence[RemoteWorker]
) -> Executor:
    """Return the executor of workers in other processes.

    Args:
        config: the search file.
        run: the run folder.
        attempts: counts the processes that were lost in the middle of a job.
        workers: the workers, not started yet.
    """
    from evomerge.execute.tree import divide

    def count_loss(job: Job) -> int:
        return attempts.add(f"{job.candidate} {job.split}")

    by_generation: Any = partial(divide, parts=len(workers))
    return RemoteExecutor(
        workers,
        config.executor.timeout,
        by_generation if shares_prefixes(config) else each_alone,
        count_loss,
        Activity(run / WORKERS),
    )
