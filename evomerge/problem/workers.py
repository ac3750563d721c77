"""The workers of a search: what `executor` may say of them, how many there are, and where.

In processes of this machine, or in actors of a Ray cluster.
"""

import importlib.util
import math
import os
import signal
import socket
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from evomerge.compat.ray import address_of, silence
from evomerge.config.schema import SearchConfig
from evomerge.device import choose_device, count_cores, count_devices
from evomerge.errors import ConfigError, SearchError, one_line

OBJECT_STORE = 100 << 20
"""Bytes of Ray's object store on this machine. Nothing large goes through it."""

ANSWER = 5.0
"""Seconds that a cluster has to answer."""


@dataclass(frozen=True, kw_only=True)
class Workers:
    """How many workers a search has."""

    count: int = 1  # on all machines together
    on_a_machine: int = 1  # the largest number on one
    on_an_accelerator: int = 1  # the largest number that share one of this machine; or 1
    text: str  # how many there are and where, for people
    needed: Mapping[str, float] = field(default_factory=dict)  # resource of Ray -> amount for each


def workers_of(config: SearchConfig) -> Workers:
    """Return how many workers a search has.

    ConfigError: there is no Ray cluster, or it has too little.
    """
    if config.executor.kind == "inline":
        return Workers(text="1, in this process")
    if config.executor.kind == "ray":
        return ray_workers(config)
    devices = worker_devices(config)
    places = sorted({"+".join(group) for group in devices if group})
    text = f"{len(devices)} processes" + (f" on {', '.join(places)}" if places else "")
    count, most = len(devices), max(Counter(devices).values())
    return Workers(count=count, on_a_machine=count, on_an_accelerator=most, text=text)


def worker_devices(config: SearchConfig) -> list[tuple[str, ...]]:
    """Return the accelerators of each worker process; none: as `evaluation.device` says.

    Workers take several accelerators in turn, each `evaluation.tensor_parallel` of them. Without
    one, `workers: auto` gives each as many cores as `evaluation.threads` says, or one.
    """
    evaluation, workers = config.evaluation, config.executor.workers
    size, device = evaluation.tensor_parallel, _accelerator(config)
    # With `device_map`, the model is divided over all accelerators.
    count = count_devices(device) if evaluation.device_map is None or size > 1 else 1
    groups = max(1, count // size)
    if workers == "auto":
        threads = 1 if evaluation.threads == "auto" else evaluation.threads
        cores = max(1, count_cores() // threads)
        workers = cores if device == "cpu" else groups
    if count == 1:
        return [()] * workers
    devices = [f"{device}:{number}" for number in range(count)]
    parts = [tuple(devices[group * size : (group + 1) * size]) for group in range(groups)]
    return [parts[number % groups] for number in range(workers)]


def _accelerator(config: SearchConfig) -> str:
    """Return the kind of device that workers take; a vLLM engine takes an accelerator anyway."""
    evaluation = config.evaluation
    beside = evaluation.backend == "vllm" and evaluation.device == "cpu"
    return choose_device("auto" if beside else evaluation.device)


def device_change(config: SearchConfig, peak: Mapping[str, int]) -> str | None:
    """Return a warning if models were scored on an accelerator before and are not now, or reversed.

    Args:
        config: the search file of a run.
        peak: largest memory of the run so far, in bytes; see `Timings.peak`. An engine of vLLM is a
            process of its own, whose accelerator is not in it.

    Returns:
        None: it is the same device, or nothing is known, as for machines of Ray.
    """
    if not peak or config.executor.kind == "ray":
        return None
    try:
        device, was_used = _accelerator(config).partition(":")[0], peak.get("accelerator", 0) > 0
    except ConfigError:  # there is no such device here, which matters only if models are scored
        return None
    if was_used and device == "cpu":
        then, here = "an accelerator", "the CPU"
    elif not was_used and device == "cuda" and config.evaluation.backend == "hf":
        then, here = "the CPU", "an accelerator"
    else:
        return None
    return (
        f"Candidates of this run were scored on {then}, and are scored on {here} now. Scores are "
        "as right, but their last digits and the course of the search may differ; for the same "
        f"search, go on where {then} scores them."
    )


def resolve_order(config: SearchConfig, generation: int) -> SearchConfig:
    """Return the search file with `executor.order` set, if it is `auto`."""
    if config.executor.order != "auto":
        return config
    has_generations = generation > 1 or config.optimizer.needs_gradients
    return config.with_values("executor", order="generation" if has_generations else "arrival")


def check_workers(config: SearchConfig) -> None:
    """Check that the workers do not need more than there is.

    ConfigError: several vLLM engines would have to share an accelerator or the CPU; there is no Ray
    cluster, or it has too little.
    """
    size, is_vllm = config.evaluation.tensor_parallel, config.evaluation.backend == "vllm"
    if config.executor.kind == "ray":
        workers = ray_workers(config)
        gpus = workers.needed.get("GPU", 0.0)
        if is_vllm and gpus < 1 and workers.on_a_machine > 1:
            raise ConfigError(
                f"`executor.ray.resources` gives each worker GPU {gpus:g}, but each vLLM engine "
                "takes an accelerator of its own; set GPU to 1, or `evaluation.backend` to 'hf'."
            )
        return
    device = _accelerator(config)
    if device != "cpu" and (there := count_devices(device)) < size:
        raise ConfigError(
            f"`evaluation.tensor_parallel` is {size}, but this machine has {there}; lower it."
        )
    devices = worker_devices(config)
    if is_vllm and len(devices) > (enough := len(set(devices))):
        one = "an accelerator" if size == 1 else f"{size} accelerators"
        raise ConfigError(
            f"`executor.workers` is {config.executor.workers}, but each vLLM engine takes {one} of "
            f"its own, which is enough for {enough}; lower it, or set `evaluation.backend` to 'hf'."
        )


def ray_workers(config: SearchConfig) -> Workers:
    """Return the workers of a search on Ray.

    Each takes `executor.ray.resources`, and as many cores as `evaluation.threads` says, or one.
    Without this key, it takes `evaluation.tensor_parallel` GPUs, if there are some for it.

    ConfigError: Ray is not installed, there is no cluster at the address, or more workers are asked
    for than fit.
    """
    if importlib.util.find_spec("ray") is None:
        raise ConfigError(
            "`executor.kind` is 'ray', but Ray is not installed; install it with "
            "`pip install 'evomerge[ray]'`."
        )
    evaluation, cluster = config.evaluation, machines(config)
    resources = config.executor.ray.resources
    if resources is None:
        has_gpu = evaluation.device != "cpu"
        if evaluation.device == "auto":
            has_gpu = any(machine.get("GPU") for machine in cluster)
        resources = {"GPU": float(evaluation.tensor_parallel)} if has_gpu else {}
    threads = 1.0 if evaluation.threads == "auto" else float(evaluation.threads)
    needed = {"CPU": threads, **resources}
    fits, workers = [fitting(machine, needed) for machine in cluster], config.executor.workers
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
        count=count,
        on_a_machine=max(used),
        on_an_accelerator=min(math.floor(1 / share), count) if 0 < share < 1 else 1,
        text=f"{count} Ray actors on {where}, each with {amounts}",
        needed=needed,
    )


def connect(config: SearchConfig) -> None:
    """Connect this process to the cluster, or start Ray on this machine; once in a process.

    Ray on this machine listens on 127.0.0.1 only, since everyone who reaches its ports can run
    code.

    ConfigError: there is no cluster at the address; SearchError: Ray cannot start on this machine.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = config.executor.ray.address
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


def machines(config: SearchConfig) -> list[Mapping[str, float]]:
    """Return the resources of each machine that workers can run on, by name.

    If no address is given this is the machine itself, and Ray is not started.

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
