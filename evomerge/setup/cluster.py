"""The Ray cluster of a search: connecting to it, its machines, and how many workers fit on them."""

from __future__ import annotations

import importlib.util
import math
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evomerge.compat.ray import address_of, silence
from evomerge.config.schema import SearchConfig
from evomerge.errors import ConfigError, SearchError, one_line
from evomerge.evaluation.inference.device import count_cores, count_devices

OBJECT_STORE = 100 << 20
"""Bytes of Ray's object store on this machine. Nothing large goes through it."""

ANSWER = 5.0
"""Seconds that a cluster has to answer."""


@dataclass(frozen=True)
class Workers:
    """How many workers a search has.

    Attributes:
        by_machine: how many run on each machine, at most.
        count: on all machines together.
        on_an_accelerator: the largest number that share an accelerator of this machine; or 1.
        text: how many there are and where, for people.
        needed: what each takes of a machine of Ray: name of a resource -> amount.
    """

    by_machine: Sequence[int]
    count: int
    on_an_accelerator: int
    text: str
    needed: Mapping[str, float] = field(default_factory=dict)

    @property
    def on_a_machine(self) -> int:
        """The largest number on one machine."""
        return max(self.by_machine)


def ray_workers(config: SearchConfig) -> Workers:
    """Return the workers of a search on Ray.

    Each takes `executor.ray.resources`, and as many cores as `evaluation.threads` says, or one.
    Without this key, it takes a GPU if `evaluation.device` names one, or if a machine has one and
    the device is `auto`; with `evaluation.tensor_parallel` it takes as many GPUs.

    Raises:
        ConfigError: Ray is not installed, there is no cluster at the address, or more workers are
            asked for than fit.
    """
    if importlib.util.find_spec("ray") is None:
        raise ConfigError(
            "`executor.kind` is 'ray', but Ray is not installed; install it with "
            "`pip install 'evomerge[ray]'`."
        )
    evaluation, found = config.evaluation, machines(config)
    given = config.executor.ray.resources
    if given is None:
        has_gpu = evaluation.device != "cpu"
        if evaluation.device == "auto":
            has_gpu = any(machine.get("GPU") for machine in found)
        given = {"GPU": float(evaluation.tensor_parallel)} if has_gpu else {}
    needed = {"CPU": 1.0 if evaluation.threads == "auto" else float(evaluation.threads), **given}
    fits = [fitting(machine, needed) for machine in found]
    workers = config.executor.workers
    count = max(1, sum(fits)) if workers == "auto" else workers
    amounts = ", ".join(f"{name} {amount:g}" for name, amount in needed.items())
    if sum(fits) < count:
        raise ConfigError(
            f"`executor.workers` is {workers}, and each takes {amounts}, but there is room for "
            f"{sum(fits)}; lower `executor.workers` or `executor.ray.resources`."
        )
    used, share = [min(count, fit) for fit in fits if fit], needed.get("GPU", 0.0)
    on_one = min(math.floor(1 / share), count) if 0 < share < 1 else 1
    where = "this machine" if len(used) == 1 else f"{len(used)} machines"
    return Workers(
        used, count, on_one, f"{count} Ray actors on {where}, each with {amounts}", needed
    )


def connect(config: SearchConfig) -> None:
    """Connect this process to the cluster, or start Ray on this machine; once in a process.

    Ray on this machine listens on 127.0.0.1 only, since everyone who reaches its ports can run
    code.

    Raises:
        ConfigError: there is no cluster at the address.
        SearchError: Ray cannot start on this machine.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = config.executor.ray.address
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        # Ray reads these when it is imported.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        os.environ.setdefault("RAY_worker_niceness", "0")
        options |= {
            "num_cpus": count_cores(),
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE,
            "_node_ip_address": "127.0.0.1",
        }
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
                f"Ray could not start on this machine ({reason}); set `executor.kind` to "
                "'processes', which needs no Ray."
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
    found = address_of(address)
    if found is None:
        raise ConnectionError("no cluster was started on this machine")
    host, _, port = found.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER):
        return str(found)


def machines(config: SearchConfig) -> list[Mapping[str, float]]:
    """Return the resources of each machine that workers can run on, by name.

    If no address is given this is the machine itself, and Ray is not started.

    Raises:
        ConfigError: there is no cluster at the address.
    """
    if config.executor.ray.address is None:
        return [{"CPU": float(count_cores()), "GPU": float(count_devices("cuda"))}]
    connect(config)
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def fitting(machine: Mapping[str, float], needed: Mapping[str, float]) -> int:
    """Return how many workers with these resources fit on a machine."""
    shares = [machine.get(name, 0.0) / amount for name, amount in needed.items() if amount > 0]
    return min((math.floor(share + 1e-6) for share in shares), default=0)
