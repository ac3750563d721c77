"""The executors of a search: in its process, in processes of this machine, in actors of Ray.

What makes a worker in another process is small, so it can be sent to any machine that sees the
parents and the tasks: in a folder that all share, or in its own cache of the Hub. The worker checks
that they are those of the run. Only the process of the search writes to the run folder.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from evomerge.config.schema import SearchConfig, parse
from evomerge.errors import EvomergeError, InputError, SearchError, one_line
from evomerge.evaluation.inference.device import count_cores, use_only
from evomerge.execute.inline import one_by_one
from evomerge.execute.protocol import Executor, Job, Result, RunJobs
from evomerge.execute.remote import RemoteExecutor, RemoteWorker
from evomerge.run.activity import WORKERS, Activity
from evomerge.run.attempts import Attempts
from evomerge.run.folder import CONFIG, RunFolder
from evomerge.run.logbook import Logbook
from evomerge.setup import cluster
from evomerge.setup.checked import CheckedSearch, Permissions
from evomerge.setup.freeze import package_version
from evomerge.setup.runs import restore
from evomerge.setup.tasks import code_files
from evomerge.setup.worker import make_worker, run_jobs
from evomerge.setup.workers import worker_devices
from evomerge.trust.consent import Consent

if TYPE_CHECKING:
    from evomerge.execute.worker import Worker

T = TypeVar("T")

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
    "evomerge.setup.executors",
)
"""What a worker imports. Imported once for all, it saves each worker four fifths of its start."""

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
        checked, threads=logbook.history.threads, report=logbook.note_preparation, run=run
    )
    logbook.note_threads(worker.threads)
    activity = Activity(run / WORKERS)

    def score(
        job: Job, scoring_context: Callable[[Any], AbstractContextManager[None]] = nullcontext
    ) -> Result:
        activity.note(0, "scoring", "this process", [job.candidate], job.split)
        activity.write()
        with attempts.trying(job.attempt):
            return worker(job, scoring_context)

    return InlineExecutor(run_jobs(score, checked.config), put_back)


@dataclass(frozen=True)
class WorkerOfRun:
    """Makes a worker of a run, in any process that sees the parents.

    Attributes:
        folder: the run folder, from which relative paths start. It need not be there.
        cores: largest number of CPU threads.
        threads: CPU threads that score a model; None: choose.
        neighbours: number of workers that share the memory of its machine.
        allowed: what the user allows where the search runs.
        devices: accelerators, all others are hidden from the process; none: as `evaluation.device`
            says.
    """

    config: SearchConfig
    folder: Path
    cores: int
    threads: int | None
    neighbours: int = 1
    allowed: Permissions = field(default_factory=Permissions)
    devices: tuple[str, ...] = ()

    def __call__(self) -> RunJobs:
        """Return what runs the jobs.

        Raises:
            InputError: a parent or a task has changed since the run was started.
        """
        return one_by_one(self._made())

    def choose_threads(self) -> int:
        """Return how many CPU threads a worker should score with."""
        return self._made().threads

    def _made(self) -> Worker:
        use_only(self.devices)
        checked = restore(self.config, self.folder, **self.allowed)
        return make_worker(
            checked, self.neighbours, self.threads, most_threads=self.cores, run=self.folder
        )


def worker_of_run(checked: CheckedSearch, run: Path, logbook: Logbook, cores: int) -> WorkerOfRun:
    """Return what makes a worker of a run.

    The number of CPU threads is the one in the journal, or in the search file. It is 1 if there is
    no choice.
    """
    began = parse(RunFolder(run).config(), str(run / CONFIG))
    # `resume` can change the section `executor`.
    config = began.model_copy(update={"executor": checked.config.executor})
    wanted = config.evaluation.threads
    threads = logbook.history.threads if wanted == "auto" else wanted
    if threads is None and cores == 1:
        threads = 1
    code = code_files(checked.config)
    checked.consent.require(code)  # it may have changed since
    allowed = Permissions(
        allow_pickle=checked.allow_pickle,
        allow_code=checked.allow_code,
        consent=Consent(digests=frozenset(file.digest for file in code)),
    )
    return WorkerOfRun(config, run.absolute(), cores, threads, allowed=allowed)


def _with_threads(worker: WorkerOfRun, logbook: Logbook, choose: Callable[[], int]) -> WorkerOfRun:
    """Set and journal the number of CPU threads, which `choose` measures in another process."""
    threads = worker.threads if worker.threads is not None else choose()
    logbook.note_threads(threads)
    return replace(worker, threads=threads)


def _remote_executor(
    config: SearchConfig, run: Path, attempts: Attempts, workers: Sequence[RemoteWorker]
) -> Executor:
    return RemoteExecutor(
        workers,
        config.executor.timeout,
        lambda job: attempts.add(job.attempt),
        Activity(run / WORKERS),
    )


def make_processes(
    checked: CheckedSearch, run: Path, logbook: Logbook, attempts: Attempts
) -> Executor:
    """Return an executor of worker processes; see `MakeExecutor`."""
    from evomerge.execute.processes import ProcessWorker, call

    devices = worker_devices(checked.config)
    count = len(devices)
    kind = checked.checkpoints[checked.host].config.get("model_type")
    preload = (*PRELOADED, f"transformers.models.{kind}.modeling_{kind}")
    worker = worker_of_run(checked, run, logbook, max(1, count_cores() // count))
    worker = replace(worker, devices=devices[0], neighbours=count)
    worker = _with_threads(worker, logbook, partial(call, worker.choose_threads, preload))
    workers = [
        ProcessWorker(replace(worker, devices=group), preload, "+".join(group)) for group in devices
    ]
    return _remote_executor(checked.config, run, attempts, workers)


def on_machine(
    make: Callable[[WorkerOfRun], T],
    worker: WorkerOfRun,
    needed: Mapping[str, float],
    count: int,
    versions: Mapping[str, str],
    paths: Sequence[str] = (),
) -> T:
    """Check this machine of the cluster, and return what is made of its worker.

    Args:
        worker: its `neighbours` are those on this machine.
        needed: what a worker takes of a machine, by name.
        count: number of workers on all machines.
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
    neighbours = min(count, max(1, cluster.fitting(resources, needed)))
    try:
        return make(replace(worker, neighbours=neighbours))
    except InputError as error:
        raise SearchError(
            f"{place}, while all machines must see the same parents and tasks: {error}"
        ) from error
    except EvomergeError:
        raise
    except Exception as error:
        raise SearchError(
            f"{place} a worker could not be made ({one_line(error)}); see to this machine, then go "
            "on with `evomerge resume`."
        ) from error


def make_ray(checked: CheckedSearch, run: Path, logbook: Logbook, attempts: Attempts) -> Executor:
    """Return an executor of Ray actors; see `MakeExecutor`."""
    config = checked.config
    workers = cluster.ray_workers(config)
    needed, count = workers.needed, workers.count
    cluster.connect(config)
    from evomerge.evaluation.inference.vllm_start import installed_vllm
    from evomerge.execute.ray import RayWorker, call

    cores = max(1, int(needed["CPU"]))
    worker = worker_of_run(checked, run, logbook, cores)
    if not needed.get("GPU"):  # Ray does not hide accelerators that an actor did not ask for
        worker = replace(worker, config=worker.config.with_values("evaluation", device="cpu"))
    paths = tuple(filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))
    versions = {name: package_version(name) for name in SAME}
    if config.evaluation.backend == "vllm" and (found := installed_vllm()) is not None:
        versions |= {found[0]: found[1]}
    about = (needed, count, versions, tuple(map(os.path.abspath, paths)))
    choose = partial(on_machine, WorkerOfRun.choose_threads, worker, *about)
    worker = _with_threads(worker, logbook, partial(call, choose, needed))
    make = partial(on_machine, WorkerOfRun.__call__, worker, *about)
    return _remote_executor(config, run, attempts, [RayWorker(make, needed) for _ in range(count)])


MakeExecutor: TypeAlias = Callable[[CheckedSearch, Path, Logbook, Attempts], Executor]
"""Makes the executor of a search from its run folder, and from what notes for the run: the number
of CPU threads that score a model, and the jobs that end a process."""

EXECUTORS: Mapping[str, MakeExecutor] = {
    "inline": make_inline,
    "processes": make_processes,
    "ray": make_ray,
}
"""`executor.kind` -> what makes the executor."""
