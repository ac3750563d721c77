"""The executor whose workers are processes of their own: how many, where, with which share.

The parents' weights are files that are mapped into memory, so all workers of a machine share their
pages.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from evomerge.evaluation.inference.device import count_cores
from evomerge.execute.protocol import Executor
from evomerge.run.attempts import Attempts
from evomerge.run.logbook import Logbook
from evomerge.setup.checked import CheckedSearch
from evomerge.setup.executor import worker_devices
from evomerge.setup.remote import remote_executor, with_threads, worker_of_run
from evomerge.setup.worker import MemoryShare

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
