"""The executors on this machine: in the process of the search, and in processes of their own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from evomerge.evaluation.inference.device import count_cores
from evomerge.execute.protocol import Executor, Job
from evomerge.run.activity import WORKERS, Activity
from evomerge.run.attempts import Attempts
from evomerge.run.logbook import Logbook
from evomerge.scores import Outcome
from evomerge.setup.checked import CheckedSearch
from evomerge.setup.executor import worker_devices
from evomerge.setup.remote import remote_executor, with_threads, worker_of_run
from evomerge.setup.worker import MemoryShare, make_worker, run_jobs


def make_inline(
    checked: CheckedSearch, run: Path, logbook: Logbook, attempts: Attempts
) -> Executor:
    """Return the inline executor of a search; see `evomerge.setup.search.MakeExecutor`."""
    from evomerge.evaluation.inference.device import keep_threads
    from evomerge.execute.inline import InlineExecutor

    put_back = keep_threads()
    share = MemoryShare.of_machine(1)
    worker = make_worker(checked, share, logbook.history.threads, logbook.note_preparation, run=run)
    logbook.note_threads(worker.threads)
    activity = Activity(run / WORKERS)

    def score(
        job: Job, scoring_context: Callable[[Any], AbstractContextManager[None]] = nullcontext
    ) -> Outcome:
        activity.note(0, "scoring", "this process", [job.candidate], job.split)
        activity.write()
        with attempts.trying(f"{job.candidate} {job.split}"):
            return worker(job, scoring_context)

    return InlineExecutor(run_jobs(score, checked.config, share), put_back)


PRELOADED = (
    "torch",
    "transformers.generation.utils",
    "lm_eval.tasks",
    "lm_eval.models.huggingface",
    "datasets",
    "evomerge.execute.worker",
    "evomerge.merging.backend",
    "evomerge.merging.methods",
    "evomerge.merging.kernels.compiled",
    "evomerge.setup.remote",
)
"""What a worker imports. Imported once for all, it saves each worker four fifths of its start."""


def make_processes(
    checked: CheckedSearch, run: Path, logbook: Logbook, attempts: Attempts
) -> Executor:
    """Return an executor of worker processes; see `evomerge.setup.search.MakeExecutor`."""
    from evomerge.execute.processes import ProcessWorker, call

    devices = worker_devices(checked.config)
    count = len(devices)
    kind = checked.checkpoints[checked.host].config.get("model_type")
    preload = (*PRELOADED, f"transformers.models.{kind}.modeling_{kind}")
    share, cores = MemoryShare.of_machine(count), max(1, count_cores() // count)
    worker = worker_of_run(checked, run, logbook, share, cores).on(devices[0])
    worker = with_threads(worker, logbook, partial(call, worker.choose_threads, preload))
    workers = [ProcessWorker(worker.on(group), preload, "+".join(group)) for group in devices]
    return remote_executor(checked.config, run, attempts, workers)
