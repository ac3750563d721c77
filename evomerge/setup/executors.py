"""The executors of a search: in its process, in processes of this machine, in actors of Ray.

What makes a worker in another process is small, so it can be sent to any machine that sees the
parents and the tasks: in a folder that all share, or in its own cache of the Hub. The worker checks
that they are those of the run. Only the process of the search writes to the run folder.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

from evomerge.config.schema import SearchConfig
from evomerge.errors import EvomergeError, InputError, SearchError, one_line
from evomerge.evaluation.inference.device import count_cores, processor, use_only
from evomerge.execute.pool import Pool, Worker
from evomerge.execute.protocol import Executor, Job, Result, RunJob
from evomerge.run.activity import WORKERS, Activity
from evomerge.run.attempts import Attempts
from evomerge.run.folder import RunFolder
from evomerge.run.logbook import Logbook
from evomerge.setup.checked import CheckedSearch
from evomerge.setup.freeze import package_version
from evomerge.setup.runs import restore
from evomerge.setup.worker import make_worker, threads_of
from evomerge.setup.workers import connect, fitting, ray_workers, worker_devices
from evomerge.trust.consent import NOTHING, Permissions

PRELOADED = (
    "torch", "transformers.generation.utils", "lm_eval.tasks", "lm_eval.models.huggingface",
    "datasets", "evomerge.execute.worker", "evomerge.merging.backend", "evomerge.merging.methods",
    "evomerge.merging.kernels.compiled", "evomerge.setup.executors",
)  # fmt: skip
"""What a worker imports. Imported once for all, it saves each worker four fifths of its start."""

PRELOADED_FOR_ENCODERS = "sentence_transformers.sentence_transformer.modules"
"""What a worker imports, too, if sentence encoders are scored."""

SAME = ("evomerge", "torch", "transformers", "lm_eval")
"""Packages whose versions must be the same on all machines, since scores depend on them."""


def make_inline(
    checked: CheckedSearch, run: Path, logbook: Logbook, attempts: Attempts
) -> Executor:
    """Return the executor in this process; see `MakeExecutor`."""
    from evomerge.evaluation.inference.device import keep_threads
    from evomerge.execute.inline import InlineExecutor

    put_back = keep_threads()
    worker = make_worker(
        checked,
        threads=logbook.history.threads,
        report=logbook.note_preparation,
        is_new=not logbook.history.told,
    )
    logbook.note_threads(worker.threads)
    activity = Activity(run / WORKERS)

    def score(job: Job) -> Result:
        activity.note(0, "scoring", "this process", [job.candidate], job.split)
        activity.write()
        with attempts.trying(job.attempt):
            return worker(job)

    return InlineExecutor(score, put_back)


@dataclass(frozen=True)
class WorkerOfRun:
    """Makes a worker of a run, in any process that sees the parents.

    Attributes:
        folder: the run folder, from which relative paths start. It need not be there.
        threads: CPU threads that score a model.
        allowed: what the user allows where the search runs.
        neighbours: number of workers that share the memory of its machine.
        devices: accelerators, all others are hidden from the process; none: as `evaluation.device`
            says.
        is_new: see `make_worker`.
    """

    config: SearchConfig
    folder: Path
    threads: int
    allowed: Permissions = NOTHING
    neighbours: int = 1
    devices: tuple[str, ...] = ()
    is_new: bool = False

    def __call__(self) -> RunJob:
        """Return what runs a job.

        Raises:
            InputError: a parent or a task has changed since the run was started.
        """
        use_only(self.devices)
        checked = restore(self.config, self.folder, self.allowed)
        return make_worker(checked, self.neighbours, self.threads, is_new=self.is_new)


def worker_of_run(
    checked: CheckedSearch, run: Path, logbook: Logbook, neighbours: int, cores: int
) -> WorkerOfRun:
    """Return what makes a worker of a run, and journal the number of CPU threads.

    The number is the one in the journal, if there is one; `cores` is the largest to choose.
    """
    began = RunFolder(run).search_file()
    # `resume` can change the section `executor`.
    config = began.model_copy(update={"executor": checked.config.executor})
    host = checked.checkpoints[checked.host]
    threads = logbook.history.threads or threads_of(config, host, cores)
    logbook.note_threads(threads)
    # What this process runs was allowed, or passed by the program, which a worker cannot know.
    allowed = replace(checked.allowed, trust_code=True)
    is_new = not logbook.history.told
    return WorkerOfRun(config, run.absolute(), threads, allowed, neighbours, is_new=is_new)


def _pool(
    config: SearchConfig, run: Path, logbook: Logbook, attempts: Attempts, workers: Sequence[Worker]
) -> Executor:
    known: tuple[str, ...] = ()
    if config.executor.kind == "processes":  # workers of Ray may be on other machines
        known = (config.frozen.processor if config.frozen else "", processor())
    return Pool(
        workers,
        config.executor.timeout,
        lambda job: attempts.add(job.attempt),
        Activity(run / WORKERS),
        lambda kind: logbook.note_processor(kind, *known),
    )


def make_processes(
    checked: CheckedSearch, run: Path, logbook: Logbook, attempts: Attempts
) -> Executor:
    """Return an executor of worker processes; see `MakeExecutor`."""
    from evomerge.execute.processes import ProcessWorker

    devices, cores = worker_devices(checked.config), count_cores()
    kind = checked.checkpoints[checked.host].config.get("model_type")
    preload: tuple[str, ...] = (*PRELOADED, f"transformers.models.{kind}.modeling_{kind}")
    if checked.config.encoders:
        preload += (PRELOADED_FOR_ENCODERS,)
    count = len(devices)
    worker = worker_of_run(checked, run, logbook, count, max(1, cores // count))
    workers = [
        ProcessWorker(replace(worker, devices=group), preload, "+".join(group)) for group in devices
    ]
    return _pool(checked.config, run, logbook, attempts, workers)


def on_machine(
    worker: WorkerOfRun,
    needed: Mapping[str, float],
    versions: Mapping[str, str],
    paths: Sequence[str] = (),
) -> RunJob:
    """Check this machine of the cluster, and return what runs a job there.

    Args:
        worker: its `neighbours` are all workers, of which only some fit on this machine.
        needed: what a worker takes of a machine, by name.
        versions: package -> version where the search runs.
        paths: folders of the environment variable PYTHONPATH where the search runs, in which an
            objective function may be.

    Raises:
        SearchError: this machine has other versions, or does not see the same parents or tasks.
    """
    import ray

    sys.path.extend(path for path in paths if path not in sys.path)
    place = f"On the machine {ray.util.get_node_ip_address()} of the cluster"
    for name, wanted in versions.items():
        if (found := package_version(name)) != wanted:
            raise SearchError(
                f"{place} the version of {name} is {found}, but it is {wanted} where the search "
                "runs; install the same versions on all machines."
            )
    own = ray.get_runtime_context().get_node_id()
    resources = next(node["Resources"] for node in ray.nodes() if node["NodeID"] == own)
    neighbours = min(worker.neighbours, max(1, fitting(resources, needed)))
    try:
        return replace(worker, neighbours=neighbours)()
    except InputError as error:
        why = f"{place}, while all machines must see the same parents and tasks: {error}"
        raise SearchError(why) from error
    except EvomergeError:
        raise
    except Exception as error:
        raise SearchError(
            f"{place} a worker could not be made ({one_line(error)}); repair it, then resume."
        ) from error


def make_ray(checked: CheckedSearch, run: Path, logbook: Logbook, attempts: Attempts) -> Executor:
    """Return an executor of Ray actors; see `MakeExecutor`."""
    config = checked.config
    workers = ray_workers(config)
    needed, count = workers.needed, workers.count
    connect(config)
    from evomerge.evaluation.inference.vllm_start import installed_vllm
    from evomerge.execute.ray import RayWorker

    worker = worker_of_run(checked, run, logbook, count, max(1, int(needed["CPU"])))
    if not needed.get("GPU"):  # Ray does not hide accelerators that an actor did not ask for
        worker = replace(worker, config=worker.config.with_values("evaluation", device="cpu"))
    paths = tuple(filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))
    versions = {name: package_version(name) for name in SAME}
    if config.evaluation.backend == "vllm" and (found := installed_vllm()) is not None:
        versions |= {found[0]: found[1]}
    make = partial(on_machine, worker, needed, versions, tuple(map(os.path.abspath, paths)))
    return _pool(config, run, logbook, attempts, [RayWorker(make, needed) for _ in range(count)])


MakeExecutor: TypeAlias = Callable[[CheckedSearch, Path, Logbook, Attempts], Executor]
"""Makes the executor of a search from its run folder, and from what notes for the run: the number
of CPU threads that score a model, and the jobs that end a process."""

EXECUTORS: Mapping[str, MakeExecutor] = {
    "inline": make_inline, "processes": make_processes, "ray": make_ray,
}  # fmt: skip
"""`executor.kind` -> what makes the executor."""
