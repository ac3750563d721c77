"""The section `executor` of a search file: what it may say, and what `auto` means in it."""

from __future__ import annotations

import math
from collections import Counter

from evomerge.config.schema import SearchConfig
from evomerge.errors import ConfigError
from evomerge.evaluation.inference.device import choose_device, count_cores, count_devices
from evomerge.parsing.values import shown
from evomerge.setup.cluster import check_ray, count_workers, resources_of, workers_by_machine


def check_executor(config: SearchConfig) -> None:
    """Check the section `executor`.

    Raises:
        ConfigError: this version cannot run this kind, number of workers or timeout, or the order
            does not suit.
    """
    executor = config.executor
    if executor.kind == "ray":
        check_ray(config)
    if executor.kind == "inline" and executor.workers not in (1, "auto"):
        raise ConfigError(
            f"`executor.workers` is {executor.workers}, but the inline executor has exactly 1; "
            "set it to 1, or `executor.kind` to 'processes'."
        )
    if executor.kind == "inline" and executor.timeout is not None:
        raise ConfigError(
            f"`executor.timeout` is {executor.timeout:g}, but candidates that run in this process "
            "cannot be ended; set `executor.kind` to 'processes', or remove it."
        )
    if executor.order == "arrival" and executor.share_prefixes:
        raise ConfigError(
            "`executor.share_prefixes` runs shared blocks of a generation's paths once, but "
            "`executor.order` is 'arrival', which has no generations; set the order to generation."
        )


MOVES = ("executor.kind", "executor.workers", "executor.timeout", "executor.ray")
"""Keys that `resume` can change."""


def check_move(item: str) -> None:
    """Check that `resume` may set a key.

    Args:
        item: `key.path=value`.

    Raises:
        ConfigError: the key may change the course of the search.
    """
    path = item.partition("=")[0]
    if not any(path == move or path.startswith(f"{move}.") for move in MOVES):
        raise ConfigError(
            f"--set {shown(item)}: a search that has begun keeps its search file; `resume` can "
            f"change only {', '.join(MOVES)}."
        )


def resolve_order(config: SearchConfig, generation: int) -> SearchConfig:
    """Return the search file with `executor.order` set, if it is `auto`.

    Args:
        config: the search file.
        generation: number of proposals in a generation of the strategy; 1: no generations.
    """
    if config.executor.order != "auto":
        return config
    order = "generation" if generation > 1 else "arrival"
    executor = config.executor.model_copy(update={"order": order})
    return config.model_copy(update={"executor": executor})


def shares_prefixes(config: SearchConfig) -> bool:
    """Return whether the blocks that several paths of a generation begin with run only once."""
    if config.executor.share_prefixes is not None:
        return config.executor.share_prefixes
    return (
        config.space.kind == "dataflow"
        and isinstance(config.space.scales, float)
        and config.evaluation.racing.enabled is not True
        and config.executor.order != "arrival"
    )


def worker_devices(config: SearchConfig) -> list[tuple[str, ...]]:
    """Return the accelerators of each worker; none: as `evaluation.device` says.

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


def check_workers(config: SearchConfig) -> None:
    """Check that the workers do not need more than this machine has.

    Raises:
        ConfigError: several vLLM engines would have to share an accelerator or the CPU; there is no
            Ray cluster, or it has too little.
    """
    size = config.evaluation.tensor_parallel
    if config.executor.kind == "ray":
        gpus, most = resources_of(config).get("GPU", 0.0), max(workers_by_machine(config))
        if config.evaluation.backend == "vllm" and gpus < 1 and most > 1:
            raise ConfigError(
                f"`executor.ray.resources` gives each worker GPU {gpus:g}, but each vLLM engine "
                "takes an accelerator of its own; set GPU to 1, or `evaluation.backend` to 'hf'."
            )
        if size > 1 and 0 < gpus != size:
            raise ConfigError(
                f"`executor.ray.resources` gives each worker GPU {gpus:g}, but "
                f"`evaluation.tensor_parallel` is {size}; give both the same number."
            )
        return
    device = _accelerator(config)
    if device != "cpu" and count_devices(device) < size:
        raise ConfigError(
            f"`evaluation.tensor_parallel` is {size}, but this machine has "
            f"{count_devices(device)} accelerators; lower it."
        )
    devices = worker_devices(config)
    if config.evaluation.backend == "vllm" and len(devices) > len(set(devices)):
        raise ConfigError(
            f"`executor.workers` is {config.executor.workers}, but each vLLM engine takes "
            f"{'an accelerator' if size == 1 else f'{size} accelerators'} of its own, which is "
            f"enough for {len(set(devices))}; lower the number, or set `evaluation.backend` to "
            "'hf'."
        )


def describe_workers(config: SearchConfig, generation: int) -> str:
    """Return how many workers there are and where, and how much of their time is not used.

    Args:
        config: the search file.
        generation: number of proposals in a generation of the strategy; 1: no generations.
    """
    if config.executor.kind == "inline":
        return "1, in this process"
    if config.executor.kind == "ray":
        count, text = count_workers(config), _describe_ray(config)
    else:
        devices = worker_devices(config)
        count = len(devices)
        places = sorted({"+".join(group) for group in devices if group})
        text = f"{count} processes" + (f" on {', '.join(places)}" if places else "")
    rounds = math.ceil(generation / count)
    unused = 1 - generation / (rounds * count)
    if config.executor.order == "arrival" or unused == 0:
        return text
    return (
        f"{text}; a generation of {generation} leaves {unused:.0%} of their time unused, and "
        f"`optimizer.population: {rounds * count}` would leave none"
    )


def count_all_workers(config: SearchConfig) -> int:
    """Return the number of workers, on all machines together."""
    if config.executor.kind == "inline":
        return 1
    return count_workers(config) if config.executor.kind == "ray" else len(worker_devices(config))


def workers_per_machine(config: SearchConfig) -> int:
    """Return the largest number of workers that a machine has at a time."""
    if config.executor.kind == "inline":
        return 1
    if config.executor.kind == "ray":
        return max(workers_by_machine(config))
    return len(worker_devices(config))


def workers_per_accelerator(config: SearchConfig) -> int:
    """Return the largest number of workers that share an accelerator of this machine; 1 if none."""
    if config.executor.kind == "inline":
        return 1
    if config.executor.kind == "ray":
        share = resources_of(config).get("GPU", 0.0)
        most = math.floor(1 / share) if 0 < share < 1 else 1
        return min(most, count_workers(config))
    return max(Counter(worker_devices(config)).values())


def _describe_ray(config: SearchConfig) -> str:
    """Return how many actors there are, on how many machines, and what each takes."""
    machines, amounts = len(workers_by_machine(config)), resources_of(config)
    taken = ", ".join(f"{name} {amount:g}" for name, amount in amounts.items())
    where = "this machine" if machines == 1 else f"{machines} machines"
    return f"{count_workers(config)} Ray actors on {where}, each with {taken}"
