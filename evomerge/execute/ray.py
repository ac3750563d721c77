"""The executor `ray`: each worker is a Ray actor, on this machine or in a cluster."""

from __future__ import annotations

import importlib.util
import math
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from evomerge.compat.ray import address_of, silence
from evomerge.config.evaluation import EvaluationConfig
from evomerge.config.executor import ExecutorKind, Workers
from evomerge.device import count_cores, count_devices
from evomerge.errors import ConfigError, EvomergeError, InputError, SearchError, one_line
from evomerge.execute.pool import Pool
from evomerge.execute.protocol import Attempts

if TYPE_CHECKING:
    from evomerge.execute.plan import WorkerPlan
    from evomerge.execute.worker import Worker
    from evomerge.problem.problem import Problem
    from evomerge.run.logbook import Logbook

OBJECT_STORE = 100 << 20
"""Bytes of Ray's object store on this machine. Nothing large goes through it."""

ANSWER = 5.0
"""Seconds that a cluster has to answer."""

SAME = ("evomerge", "torch", "transformers")
"""Packages whose versions must be the same on all machines, since scores depend on them."""


class RayActors(ExecutorKind):
    """Runs candidates in actors of Ray."""

    about = "in actors of Ray, on this machine or a cluster"
    is_local: ClassVar[bool] = False

    kind: Literal["ray"]
    """ray: in actors of Ray, on this machine or a cluster"""

    def count_workers(self, evaluation: EvaluationConfig) -> Workers:
        """Return how many actors there are, on how many machines.

        ConfigError: Ray is not installed, there is no cluster at the address, or more workers are
        asked for than fit.
        """
        cluster, needed = self.machines(), self.needed(evaluation)
        fits, workers = [fitting(machine, needed) for machine in cluster], self.workers
        count = max(1, sum(fits)) if workers == "auto" else workers
        amounts = ", ".join(f"{name} {amount:g}" for name, amount in needed.items())
        if sum(fits) < count:
            raise ConfigError(
                f"`executor.workers` is {workers}, and each takes {amounts}, but there is room for "
                f"{sum(fits)}; lower `executor.workers` or `executor.ray.resources`."
            )
        used, share = [min(count, fit) for fit in fits if fit], needed.get("GPU", 0.0)
        where = "this machine" if len(used) == 1 else f"{len(used)} machines"
        return Workers(
            text=f"{count} Ray actors on {where}, each with {amounts}",
            count=count,
            on_a_machine=max(used),
            on_an_accelerator=min(math.floor(1 / share), count) if 0 < share < 1 else 1,
            are_here=self.ray.address is None,
        )

    def check(self, evaluation: EvaluationConfig) -> None:
        """Raise a ConfigError if the cluster has too little, or engines would share a GPU."""
        workers, gpus = self.count_workers(evaluation), self.needed(evaluation).get("GPU", 0.0)
        if evaluation.engine.is_separate and gpus < 1 and workers.on_a_machine > 1:
            raise ConfigError(
                f"`executor.ray.resources` gives each worker GPU {gpus:g}, but each "
                f"{evaluation.engine.title} takes an accelerator of its own; set GPU to 1, or "
                "`evaluation.backend` to 'hf'."
            )

    def needed(self, evaluation: EvaluationConfig) -> dict[str, float]:
        """Return what each worker takes of a machine, by resource.

        It takes `executor.ray.resources`, and as many cores as `evaluation.threads` says, or one.
        Without this key, it takes `evaluation.tensor_parallel` GPUs, if there are some for it.
        """
        resources = self.ray.resources
        if resources is None:
            has_gpu = evaluation.device != "cpu"
            if evaluation.device == "auto":
                has_gpu = any(machine.get("GPU") for machine in self.machines())
            resources = {"GPU": float(evaluation.tensor_parallel)} if has_gpu else {}
        threads = 1.0 if evaluation.threads == "auto" else float(evaluation.threads)
        return {"CPU": threads, **resources}

    def machines(self) -> list[Mapping[str, float]]:
        """Return the resources of each machine that workers can run on, by name.

        If no address is given this is the machine itself, and Ray is not started.

        ConfigError: Ray is not installed, or there is no cluster at the address.
        """
        if importlib.util.find_spec("ray") is None:
            raise ConfigError(
                "`executor.kind` is 'ray', but Ray is not installed; install it with "
                "`pip install 'evomerge[ray]'`."
            )
        if self.ray.address is None:
            return [{"CPU": float(count_cores()), "GPU": float(count_devices("cuda"))}]
        connect(self.ray.address)
        import ray

        return [node["Resources"] for node in ray.nodes() if node["Alive"]]

    def make(self, problem: Problem, logbook: Logbook) -> Pool:
        """Return the executor of a run."""
        from evomerge.evaluation.objectives import kinds_of
        from evomerge.execute.plan import plan_worker
        from evomerge.problem.problem import installed_versions

        config = problem.config
        count, needed = self.count_workers(config.evaluation).count, self.needed(config.evaluation)
        connect(self.ray.address)
        from evomerge.execute.actors import RayWorker

        # Ray does not hide accelerators that an actor did not ask for.
        device = {} if needed.get("GPU") else {"device": "cpu"}
        installed = installed_versions(config).items()
        same = {*SAME, *(name for kind in kinds_of(config) for name in kind.packages)}
        same |= config.evaluation.engine.versions().keys()
        folders = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        plan = ActorPlan(
            plan_worker(problem, logbook, cores=max(1, int(needed["CPU"])), **device),
            count,
            needed,
            {name: it for name, it in installed if name in same},
            tuple(str(Path(folder).absolute()) for folder in folders if folder),
        )
        workers = [RayWorker(plan, needed) for _ in range(count)]
        return Pool(workers, Attempts(logbook.run.path), self.timeout)


@dataclass(frozen=True)
class ActorPlan:
    """Checks a machine of the cluster, and makes a worker there.

    Attributes:
        plan: what the worker is made from.
        count: number of all workers.
        needed: what each takes of a machine, by resource.
        versions: package -> version where the search runs.
        paths: PYTHONPATH where the search runs, in which an objective function may be.
    """

    plan: WorkerPlan
    count: int
    needed: Mapping[str, float]
    versions: Mapping[str, str]
    paths: Sequence[str] = ()

    def make(self) -> Worker:
        """Return a worker; the workers on this machine share its memory.

        SearchError: this machine has other versions, or does not see the same parents or tasks.
        """
        import ray

        from evomerge.problem.problem import package_version

        sys.path.extend(path for path in self.paths if path not in sys.path)
        where = f"On the machine {ray.util.get_node_ip_address()} of the cluster"
        for name, version in self.versions.items():
            if (here := package_version(name)) != version:
                raise SearchError(
                    f"{where} the version of {name} is {here}, but it is {version} where the "
                    "search runs; install the same versions on all machines."
                )
        node_id = ray.get_runtime_context().get_node_id()
        resources = next(node["Resources"] for node in ray.nodes() if node["NodeID"] == node_id)
        neighbours = min(self.count, max(1, fitting(resources, self.needed)))
        try:
            return replace(self.plan, neighbours=neighbours).make()
        except InputError as error:
            why = f"{where}, while all machines must see the same parents and tasks: {error}"
            raise SearchError(why) from error
        except EvomergeError:
            raise
        except Exception as error:
            raise SearchError(
                f"{where} a worker could not be made ({one_line(error)}); repair it, then resume."
            ) from error


def connect(address: str | None) -> None:
    """Connect this process to the cluster, or start Ray on this machine; once in a process.

    Ray on this machine listens on 127.0.0.1 only, since everyone who reaches its ports can run
    code.

    ConfigError: there is no cluster at the address; SearchError: Ray cannot start on this machine.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        # Ray reads these when it is imported.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        os.environ.setdefault("RAY_worker_niceness", "0")
        options |= {"num_cpus": count_cores(), "include_dashboard": False}
        options |= {"object_store_memory": OBJECT_STORE, "_node_ip_address": "127.0.0.1"}
    import ray

    if ray.is_initialized():
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init("local" if address is None else _answering(address), **options)
    except Exception as error:  # Ray raises errors of many kinds, also plain Exception
        reason = one_line(error).partition(" Last connection error")[0].rstrip(".")
        if address is None:
            raise SearchError(
                f"Ray could not start here ({reason}); set `executor.kind` to 'processes'."
            ) from error
        raise ConfigError(
            f"`executor.ray.address` is {address!r}, but no Ray cluster answers there ({reason}); "
            "start one with `ray start --head`, or remove the key to start Ray on this machine."
        ) from error
    finally:
        signal.signal(signal.SIGTERM, handler)  # Ray has set its own
    silence()


def _answering(address: str) -> str:
    """Return the HOST:PORT of a cluster, after checking that something answers there.

    Ray itself tries for minutes to reach a cluster that is gone.
    """
    reachable = address_of(address)
    if reachable is None:
        raise ConnectionError("no cluster was started on this machine")
    host, _, port = reachable.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER):
        return reachable


def fitting(machine: Mapping[str, float], needed: Mapping[str, float]) -> int:
    """Return how many workers with these resources fit on a machine."""
    shares = [machine.get(name, 0.0) / amount for name, amount in needed.items() if amount > 0]
    return min((math.floor(share + 1e-6) for share in shares), default=0)
