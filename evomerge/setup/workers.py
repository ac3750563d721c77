"""The workers of a search: what `executor` may say of them, how many there are, and where."""

from __future__ import annotations

import math
from collections import Counter

from evomerge.config.schema import SearchConfig
from evomerge.errors import ConfigError
from evomerge.evaluation.inference.device import choose_device, count_cores, count_devices
from evomerge.parsing.values import shown
from evomerge.setup.cluster import Workers, ray_workers

MOVES = ("executor.kind", "executor.workers", "executor.timeout", "executor.ray")
"""Keys that `resume` can change."""


def workers_of(config: SearchConfig) -> Workers:
    """Return how many workers a search has.

    Raises:
        ConfigError: there is no Ray cluster, or it has too little.
    """
    if config.executor.kind == "inline":
        return Workers([1], 1, 1, "1, in this process")
    if config.executor.kind == "ray":
        return ray_workers(config)
    devices = worker_devices(config)
    places = sorted({"+".join(group) for group in devices if group})
    text = f"{len(devices)} processes" + (f" on {', '.join(places)}" if places else "")
    return Workers([len(devices)], len(devices), max(Counter(devices).values()), text)


def describe_workers(config: SearchConfig, generation: int) -> str:
    """Return how many workers there are and where, and how much of their time is not used."""
    workers = workers_of(config)
    rounds = math.ceil(generation / workers.count)
    unused = 1 - generation / (rounds * workers.count)
    if config.executor.kind == "inline" or config.executor.order == "arrival" or unused == 0:
        return workers.text
    return (
        f"{workers.text}; a generation of {generation} leaves {unused:.0%} of their time unused, "
        f"and `optimizer.population: {rounds * workers.count}` would leave none"
    )


def worker_devices(config: SearchConfig) -> list[tuple[str, ...]]:
    """Return the accelerators of each worker process; none: as `evaluation.device` says.

    With several accelerators, the workers take them in turn, each `evaluation.tensor_parallel` of
    them. Without one, `workers: auto` gives each worker as many cores as `evaluation.threads` says,
    or one.
    """
    evaluation, wanted = config.evaluation, config.executor.workers
    size, device = evaluation.tensor_parallel, _accelerator(config)
    count = count_devices(device)
    if evaluation.device_map is not None and size == 1:
        count = 1  # the model is divided over all of them
    groups = max(1, count // size)
    if wanted == "auto":
        cores = max(1, count_cores() // (1 if evaluation.threads == "auto" else evaluation.threads))
        wanted = cores if device == "cpu" else groups
    if count == 1:
        return [()] * wanted
    devices = [f"{device}:{number}" for number in range(count)]
    parts = [tuple(devices[group * size : (group + 1) * size]) for group in range(groups)]
    return [parts[number % groups] for number in range(wanted)]


def _accelerator(config: SearchConfig) -> str:
    """Return the kind of device that workers take; a vLLM engine takes an accelerator anyway."""
    evaluation = config.evaluation
    beside = evaluation.backend == "vllm" and evaluation.device == "cpu"
    return choose_device("auto" if beside else evaluation.device)


def resolve_order(config: SearchConfig, generation: int) -> SearchConfig:
    """Return the search file with `executor.order` set, if it is `auto`."""
    if config.executor.order != "auto":
        return config
    order = "generation" if generation > 1 else "arrival"
    return config.with_values("executor", order=order)


def check_move(item: str) -> None:
    """Raise a `ConfigError` if `resume` may not set this (`key.path=value`)."""
    path = item.partition("=")[0]
    if not any(path == move or path.startswith(f"{move}.") for move in MOVES):
        raise ConfigError(
            f"--set {shown(item)}: a search that has begun keeps its search file; `resume` can "
            f"change only {', '.join(MOVES)}."
        )


def check_workers(config: SearchConfig) -> None:
    """Check that the workers do not need more than there is.

    Raises:
        ConfigError: several vLLM engines would have to share an accelerator or the CPU; there is no
            Ray cluster, or it has too little.
    """
    size, is_vllm = config.evaluation.tensor_parallel, config.evaluation.backend == "vllm"
    if config.executor.kind == "ray":
        found = ray_workers(config)
        gpus = found.needed.get("GPU", 0.0)
        if is_vllm and gpus < 1 and max(found.by_machine) > 1:
            raise ConfigError(
                f"`executor.ray.resources` gives each worker GPU {gpus:g}, but each vLLM engine "
                "takes an accelerator of its own; set GPU to 1, or `evaluation.backend` to 'hf'."
            )
        return
    device = _accelerator(config)
    if device != "cpu" and (there := count_devices(device)) < size:
        raise ConfigError(
            f"`evaluation.tensor_parallel` is {size}, but this machine has {there} accelerators; "
            "lower it."
        )
    devices = worker_devices(config)
    if is_vllm and len(devices) > len(set(devices)):
        raise ConfigError(
            f"`executor.workers` is {config.executor.workers}, but each vLLM engine takes "
            f"{'an accelerator' if size == 1 else f'{size} accelerators'} of its own, which is "
            f"enough for {len(set(devices))}; lower the number, or set `evaluation.backend` to "
            "'hf'."
        )
