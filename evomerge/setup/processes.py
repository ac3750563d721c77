"""The executor whose workers are processes of their own: how many, where, with which share.

Each worker is made from the run folder, in its process. The parents' weights are files that are
mapped into memory, so all workers of a machine share their pages.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from evomerge.execute.protocol import Executor, Job, RunJobs
from evomerge.run.attempts import Attempts
from evomerge.run.folder import RunFolder
from evomerge.run.logbook import Logbook
from evomerge.setup.executor import count_cores, is_together, worker_devices
from evomerge.setup.problem import Problem
from evomerge.setup.runs import reopen
from evomerge.setup.worker import MemoryShare, make_worker

PRELOADED = (
    "torch",
    "transformers.generation.utils",
    "lm_eval.tasks",
    "lm_eval.models.huggingface",
    "datasets",
    "evomerge.execute.worker",
    "evomerge.merge.backend",
    "evomerge.merge.methods",
    "evomerge.merge.kernels.compiled",
    "evomerge.setup.processes",
)
"""What a worker imports. Imported once for all, it saves each worker four fifths of its start."""


@dataclass(frozen=True)
class WorkerOfRun:
    """Makes a worker from a run folder, in any process that sees the folder and the parents.

    Attributes:
        run: the run folder.
        device: torch device that takes the place of `evaluation.device`; None: as in the file.
        share: the worker's memory for caches.
        cores: largest number of CPU threads.
        threads: CPU threads that score a model; None: choose.
    """

    run: Path
    device: str | None
    share: MemoryShare
    cores: int
    threads: int | None

    def __call__(self) -> RunJobs:
        """Return what runs the jobs.

        Raises:
            InputError: a parent or a task has changed since the run was started.
        """
        from evomerge.evaluate.inference.tree import Forks
        from evomerge.execute.inline import one_by_one
        from evomerge.execute.tree import as_tree

        problem = self._problem()
        worker = make_worker(problem, self.share, self.threads, most_threads=self.cores)
        if is_together(problem.config):
            return as_tree(worker, Forks(self.share.states))
        return one_by_one(worker)

    def choose_threads(self) -> int:
        """Return how many CPU threads a worker should score with."""
        return make_worker(self._problem(), self.share, most_threads=self.cores).threads

    def _problem(self) -> Problem:
        problem = reopen(RunFolder(self.run))
        if self.device is None:
            return problem
        config = problem.config
        evaluation = config.evaluation.model_copy(update={"device": self.device})
        return replace(problem, config=config.model_copy(update={"evaluation": evaluation}))


def make_processes(problem: Problem, run: Path, logbook: Logbook, attempts: Attempts) -> Executor:
    """Return an executor of worker processes; see `evomerge.setup.search.MakeExecutor`."""
    from evomerge.execute.processes import ProcessWorker, call
    from evomerge.execute.remote import RemoteExecutor, each_alone
    from evomerge.execute.tree import divide

    config, threads = problem.config, logbook.history.threads
    devices = worker_devices(config)
    count = len(devices)
    first = WorkerOfRun(
        run, devices[0], MemoryShare.of_machine(count), max(1, count_cores() // count), threads
    )
    kind = problem.checkpoints[problem.host].config.get("model_type")
    preload = (*PRELOADED, f"transformers.models.{kind}.modeling_{kind}")
    if config.evaluation.threads != "auto":
        threads = config.evaluation.threads
    elif threads is None:
        threads = 1 if first.cores == 1 else call(first.choose_threads, preload)
    logbook.note_threads(threads)

    def count_loss(job: Job) -> int:
        return attempts.add(f"{job.candidate} {job.split}")

    return RemoteExecutor(
        [
            ProcessWorker(replace(first, device=device, threads=threads), preload)
            for device in devices
        ],
        config.executor.timeout,
        partial(divide, parts=count) if is_together(config) else each_alone,
        count_loss,
    )
