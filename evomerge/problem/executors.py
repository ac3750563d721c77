"""The executors of a search: in its process, in processes of this machine, in actors of Ray.

What makes a worker can be sent to any machine that sees parents and tasks. The worker checks
that they are those of the run. Only the process of the search writes to the run folder.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from evomerge.config.record import Record
from evomerge.device import count_cores, keep_threads, use_only
from evomerge.errors import EvomergeError, InputError, SearchError, one_line
from evomerge.evaluation.objectives import kinds_of
from evomerge.execute.pool import Pool, Worker
from evomerge.execute.processes import ProcessWorker
from evomerge.execute.protocol import Attempts, Executor, InlineExecutor, RunJob
from evomerge.problem.problem import Problem
from evomerge.problem.record import installed_versions, package_version
from evomerge.problem.runs import reopen
from evomerge.problem.worker import make_worker, threads_of
from evomerge.problem.workers import connect, fitting, ray_workers, worker_devices
from evomerge.run.folder import RunFolder
from evomerge.run.logbook import Logbook
from evomerge.trust.consent import NOTHING, Permissions

PRELOADED = (
    "torch", "transformers.generation.utils", "evomerge.execute.worker",
    "evomerge.merging.backend", "evomerge.merging.methods",
    "evomerge.merging.kernels.compiled", "evomerge.problem.executors",
)  # fmt: skip
"""What a worker imports. Imported once for all, it saves each worker four fifths of its start."""

SAME = ("evomerge", "torch", "transformers")
"""Packages whose versions must be the same on all machines, since scores depend on them."""


def make_executor(problem: Problem, run: Path, logbook: Logbook, attempts: Attempts) -> Executor:
    """Return the executor of a search in the run folder `run`."""
    executor = problem.config.executor
    if executor.kind == "inline":
        return _inline(problem, logbook, attempts)
    make = _on_ray if executor.kind == "ray" else _in_processes
    return Pool(make(problem, run, logbook), attempts, executor.timeout)


def _inline(problem: Problem, logbook: Logbook, attempts: Attempts) -> Executor:
    put_back = keep_threads()
    worker = make_worker(problem, threads=logbook.history.threads, is_new=not logbook.history.told)
    logbook.note_threads(worker.threads)
    return InlineExecutor(worker, attempts, put_back)


def worker_of_run(
    record: Record,
    folder: Path,
    threads: int,
    *,
    allowed: Permissions = NOTHING,
    neighbours: int = 1,
    devices: Sequence[str] = (),
    is_new: bool = False,
) -> RunJob:
    """Return a worker of a run, in any process that sees the parents; see `make_worker`.

    Args:
        folder: the run folder, from which relative paths start. It need not be there.
        devices: accelerators, all others are hidden from the process; none: as `evaluation.device`
            says.
    InputError: a parent or a task has changed since the run was started.
    """
    use_only(devices)
    return make_worker(reopen(record, folder, allowed), neighbours, threads, is_new=is_new)


def _maker(
    problem: Problem, run: Path, logbook: Logbook, cores: int, **evaluation: str
) -> partial[RunJob]:
    """Return what makes a worker of a run, and journal how many of at most `cores` threads score.

    `evaluation` has values for this section in place of the run's.
    """
    record = RunFolder(run).record()
    config = record.config.with_values("evaluation", **evaluation)
    config = config.model_copy(update={"executor": problem.config.executor})  # of `resume`
    record = record.model_copy(update={"config": config})
    host = problem.checkpoints[problem.host]
    threads = logbook.history.threads or threads_of(config, host, cores)
    logbook.note_threads(threads)
    # What this process runs was allowed, or passed by the program, which a worker cannot know.
    allowed = replace(problem.allowed, trust_code=True)
    is_new, folder = not logbook.history.told, run.absolute()
    return partial(worker_of_run, record, folder, threads, allowed=allowed, is_new=is_new)


def _in_processes(problem: Problem, run: Path, logbook: Logbook) -> list[Worker]:
    devices = worker_devices(problem.config)
    count, kind = len(devices), problem.checkpoints[problem.host].config.get("model_type")
    preload: tuple[str, ...] = (*PRELOADED, f"transformers.models.{kind}.modeling_{kind}")
    preload += tuple(name for kind in kinds_of(problem.config) for name in kind.imports)
    make = _maker(problem, run, logbook, max(1, count_cores() // count))
    return [
        ProcessWorker(partial(make, neighbours=count, devices=group), preload, "+".join(group))
        for group in devices
    ]


def _on_ray(problem: Problem, run: Path, logbook: Logbook) -> list[Worker]:
    config, workers = problem.config, ray_workers(problem.config)
    needed = workers.needed
    connect(config)
    from evomerge.execute.ray import RayWorker

    # Ray does not hide accelerators that an actor did not ask for.
    device = {} if needed.get("GPU") else {"device": "cpu"}
    make = _maker(problem, run, logbook, max(1, int(needed["CPU"])), **device)
    folders = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    paths = [str(Path(folder).absolute()) for folder in folders if folder]
    installed = installed_versions(config).items()
    same = {*SAME, *(name for kind in kinds_of(config) for name in kind.packages)}
    versions = {name: it for name, it in installed if name in same or name.startswith("vllm")}
    there = partial(on_machine, make, workers.count, needed, versions=versions, paths=paths)
    return [RayWorker(there, needed) for _ in range(workers.count)]


def on_machine(
    make: Callable[..., RunJob],
    count: int,
    needed: Mapping[str, float],
    *,
    versions: Mapping[str, str],
    paths: Sequence[str] = (),
) -> RunJob:
    """Check this machine of the cluster, and return what runs a job there.

    Args:
        make: makes it, given the `neighbours` that share the machine.
        count: number of all workers, of which each takes `needed` of a machine.
        versions: package -> version where the search runs.
        paths: PYTHONPATH where the search runs, in which an objective function may be.

    SearchError: this machine has other versions, or does not see the same parents or tasks.
    """
    import ray

    sys.path.extend(path for path in paths if path not in sys.path)
    where = f"On the machine {ray.util.get_node_ip_address()} of the cluster"
    for name, version in versions.items():
        if (here := package_version(name)) != version:
            raise SearchError(
                f"{where} the version of {name} is {here}, but it is {version} where the search "
                "runs; install the same versions on all machines."
            )
    node_id = ray.get_runtime_context().get_node_id()
    resources = next(node["Resources"] for node in ray.nodes() if node["NodeID"] == node_id)
    try:
        return make(neighbours=min(count, max(1, fitting(resources, needed))))
    except InputError as error:
        why = f"{where}, while all machines must see the same parents and tasks: {error}"
        raise SearchError(why) from error
    except EvomergeError:
        raise
    except Exception as error:
        raise SearchError(
            f"{where} a worker could not be made ({one_line(error)}); repair it, then resume."
        ) from error
