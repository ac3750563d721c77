"""The executor whose workers are actors of Ray, on this machine or on a cluster.

Each actor makes its worker from the frozen search file, so each machine must see the parents and
the tasks: in a folder that all share, or in its own cache of the Hub. The worker checks that they
are the same as where the search runs. Only the driver writes to the run folder.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from evomerge.errors import EvomergeError, InputError, SearchError, one_line
from evomerge.execute.protocol import Executor, RunJobs
from evomerge.run.attempts import Attempts
from evomerge.run.logbook import Logbook
from evomerge.setup.checked import CheckedSearch
from evomerge.setup.cluster import (
    connect,
    count_workers,
    fitting,
    resources_of,
    suitable,
    warn_if_busy,
)
from evomerge.setup.remote import WorkerOfRun, remote_executor, with_threads, worker_of_run
from evomerge.setup.versions import package_version
from evomerge.setup.worker import MemoryShare

T = TypeVar("T")

SAME = ("evomerge", "torch", "transformers", "lm_eval")
"""Packages whose versions must be the same on all machines, since scores depend on them."""


@dataclass(frozen=True)
class WorkerOnMachine:
    """Makes a worker on a machine of the cluster, after checking the machine.

    Attributes:
        worker: makes the worker; its `share` is replaced by the share of this machine's memory.
        needed: the resources of a worker, by name.
        count: number of workers of the search.
        versions: versions of the packages where the search runs.
        paths: folders of the environment variable PYTHONPATH where the search runs, in which an
            objective function may be.
    """

    worker: WorkerOfRun
    needed: Mapping[str, float]
    count: int
    versions: Mapping[str, str]
    paths: tuple[str, ...]

    def __call__(self) -> RunJobs:
        """Return what runs the jobs.

        Raises:
            SearchError: this machine has other versions, or does not see the same parents or tasks.
        """
        return self._checked(self._here().__call__)

    def check(self) -> None:
        """Check this machine without making a worker.

        Raises:
            SearchError: as for a call.
        """
        self._checked(self.worker.check)

    def choose_threads(self) -> int:
        """Return how many CPU threads a worker should score with."""
        return self._checked(self._here().choose_threads)

    def _here(self) -> WorkerOfRun:
        """Return the worker with its share of this machine's memory."""
        import ray

        own = ray.get_runtime_context().get_node_id()
        resources = next(node["Resources"] for node in ray.nodes() if node["NodeID"] == own)
        neighbours = min(self.count, max(1, fitting(resources, self.needed)))
        return replace(self.worker, share=MemoryShare.of_machine(neighbours))

    def _checked(self, make: Callable[[], T]) -> T:
        import ray

        sys.path.extend(path for path in self.paths if path not in sys.path)
        place = f"On the machine {ray.util.get_node_ip_address()} of the cluster"
        for name, wanted in self.versions.items():
            if (found := package_version(name)) != wanted:
                raise SearchError(
                    f"{place} the version of {name} is {found}, but it is {wanted} where the "
                    "search runs; install the same versions on all machines."
                )
        try:
            return make()
        except InputError as error:
            raise SearchError(
                f"{place}, while all machines must see the same parents and tasks: {error}"
            ) from error
        except EvomergeError:
            raise
        except Exception as error:
            raise SearchError(
                f"{place} a worker could not be made ({one_line(error)}); see to this machine, "
                "then go on with `evomerge resume`."
            ) from error


def make_ray(checked: CheckedSearch, run: Path, logbook: Logbook, attempts: Attempts) -> Executor:
    """Return an executor of Ray actors; see `evomerge.setup.search.MakeExecutor`."""
    config = checked.config
    needed, count = resources_of(config), count_workers(config)
    connect(config)
    from evomerge.evaluation.inference.vllm_start import installed_vllm
    from evomerge.execute.ray import RayWorker, call, call_on

    cores = max(1, int(needed["CPU"]))
    worker = worker_of_run(checked, run, logbook, MemoryShare(0, 0), cores)
    if not needed.get("GPU"):
        worker = worker.on_cpu()  # Ray does not hide accelerators that an actor did not ask for
    paths = tuple(filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))
    versions = {name: package_version(name) for name in SAME}
    if config.evaluation.backend == "vllm" and (found := installed_vllm()) is not None:
        versions |= {found[0]: found[1]}
    make = WorkerOnMachine(worker, needed, count, versions, tuple(map(os.path.abspath, paths)))

    if config.executor.ray.address is not None:
        warn_if_busy(count, needed)
        call_on(suitable(needed), make.check)
    worker = with_threads(worker, logbook, partial(call, make.choose_threads, needed))
    make = replace(make, worker=worker)
    return remote_executor(config, run, attempts, [RayWorker(make, needed) for _ in range(count)])
