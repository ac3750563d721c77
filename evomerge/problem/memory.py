"""How much memory a search takes, and whether it is there.

What must fit is what processes hold: libraries, merged weights, batches. Parents are mapped files,
of which the system takes pages back when memory is short. Prepared merges take what is free.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import psutil

from evomerge.device import (
    choose_device,
    device_memory,
    free_memory,
    is_built_for_gpu,
    total_memory,
)
from evomerge.errors import ConfigError
from evomerge.evaluation.inference.rows import kept_bytes, largest_batch
from evomerge.models.checkpoint import text_section
from evomerge.models.safetensors import WIDTHS
from evomerge.problem.problem import Problem
from evomerge.recipe import DTYPES
from evomerge.words import size_text

_LIBRARIES = 0.8e9  # bytes, measured on Linux
_LIBRARIES_CUDA = 1.4e9  # the same if torch is built for CUDA: its files are mapped, too
_FORKED = 0.25e9  # of each worker process on Linux, which shares the libraries; measured with 4
_TOKENS = 512  # of a batch on a CPU whose activations a backward pass keeps, about
_MOST = 0.9  # of an accelerator that weights may take, since batches need the rest
_NEAR = 0.9  # of the memory that is free: a person is warned from here


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What a search takes and what there is, in bytes, by what takes it; inf: it is unknown."""

    machine: Mapping[str, float]  # what the processes on one machine take together
    shares: Mapping[str, float]  # what the workers take that share one accelerator
    device: str  # that scores models, such as `cuda`
    accelerator: float = math.inf
    total: float = math.inf  # of this machine
    free: float = math.inf


def weights_of(problem: Problem, dtype: str) -> int:
    """Return the size of a merged model's weights in bytes."""
    return problem.checkpoints[problem.host].parameters * WIDTHS[DTYPES[dtype]]


def memory_of(problem: Problem) -> Memory:
    """Return what a search takes; what other machines have is unknown here."""

    config, host = problem.config, problem.checkpoints[problem.host]
    device = choose_device(config.evaluation.device)
    workers = config.executor.count_workers(config.evaluation)
    count = workers.on_a_machine
    libraries = _LIBRARIES_CUDA if is_built_for_gpu() else _LIBRARIES
    are_forked = workers.are_forked
    machine = {"libraries": libraries + count * _FORKED if are_forked else count * libraries}
    depth = max(1.0, problem.space.max_depth / len(host.decoder_stack))
    each, shares = {"weights": weights_of(problem, config.compute) * depth}, dict[str, float]()
    if config.optimizer.needs_gradients:
        each["backward pass"] = _backward_bytes(problem)
    if device.startswith(("cpu", "mps")):  # models are in the machine's own memory
        each["batches"] = largest_batch(text_section(host.config), WIDTHS[DTYPES[config.compute]])
        machine |= {name: count * size for name, size in each.items()}
    else:
        shares = {name: workers.on_an_accelerator * size for name, size in each.items()}
    memory = Memory(machine=machine, shares=shares, device=device)
    if not workers.are_here:
        return memory
    process, total = psutil.Process().memory_info(), total_memory()  # it is in `libraries`
    free = min(free_memory() + process.rss - getattr(process, "shared", 0), total)
    accelerator = device_memory(device) or math.inf
    return replace(memory, accelerator=accelerator, total=total, free=free)


def _backward_bytes(problem: Problem) -> float:
    """Return about what one batch needs: activations, logits, a tensor's gradient in float32."""

    host, itemsize = problem.checkpoints[problem.host], WIDTHS[DTYPES[problem.config.compute]]
    largest = max(math.prod(info.shape) for info in host.tensors.values())
    activations = kept_bytes(text_section(host.config), itemsize)
    logits = (host.config.get("vocab_size") or 0) * 12
    return _TOKENS * (activations + logits) + largest * (itemsize + 8)


def memory_rows(problem: Problem) -> dict[str, object]:
    """Return what a search takes and what there is, for a person: name -> text or texts."""
    memory, parents = memory_of(problem), problem.checkpoints.values()
    # Parents with different adapters share a model.
    mapped = sum({item.folder: item.nbytes for item in parents}.values())
    rows: dict[str, object] = {
        "memory": _texts(memory.machine),
        "mapped_files": f"{size_text(mapped)} of parents, which need not fit",
    }
    if memory.free < math.inf:
        rows["free_memory"] = f"{size_text(memory.free)} of {size_text(memory.total)}"
    if not memory.shares:
        return rows | {"device": memory.device}
    is_known = memory.accelerator < math.inf
    size = size_text(memory.accelerator) if is_known else "unknown memory"
    return rows | {"device": {memory.device: size, **_texts(memory.shares)}}


def _texts(sizes: Mapping[str, float]) -> dict[str, str]:
    every = {**sizes, "together": sum(sizes.values())}
    return {name: size_text(size) for name, size in every.items()}


def check_fit(problem: Problem) -> None:
    """Check that a search fits into the memory of this machine and of its accelerators.

    Models that are divided over several accelerators (`device_map`) are not checked.
    ConfigError: it cannot fit, whatever else runs here.
    """
    config, memory = problem.config, memory_of(problem)
    fixes = ["choose a smaller dtype"] if config.dtype == "float32" else []
    count = config.executor.count_workers(config.evaluation).count
    fixes += ["lower `executor.workers`"] if count > 1 else []
    fix = " or ".join([*fixes, "take smaller parents"])
    weights, engine = memory.shares.get("weights", 0.0), config.evaluation.engine
    beside = f" beside a {engine.title}" if engine.is_separate else ""
    most = _MOST * (1 - engine.memory_share) * memory.accelerator
    if weights > most and config.evaluation.device_map is None:
        raise ConfigError(
            f"`evaluation.device_map` is null, but the merged weights, {size_text(weights)} in "
            f"{config.compute}, do not fit on an accelerator of {size_text(memory.accelerator)}"
            f"{beside}; set it to 'auto' to divide the model over several, or {fix}."
        )
    needed = sum(memory.machine.values())
    if needed > memory.total + psutil.swap_memory().total:
        parts = ", ".join(f"{name} {size_text(size)}" for name, size in memory.machine.items())
        raise ConfigError(
            f"The search needs {size_text(needed)} of memory ({parts}), but this "
            f"machine has {size_text(memory.total)}; {fix}."
        )


def fit_warnings(problem: Problem) -> Iterator[str]:
    """Yield warnings where a search can fit, but hardly into what is free now."""
    memory = memory_of(problem)
    if (machine := sum(memory.machine.values())) > _NEAR * memory.free:
        yield (
            f"the search takes about {size_text(machine)} of memory, and {size_text(memory.free)} "
            "are free now, while the system ends a process that it has no memory for; end other "
            "programs, or take less (docs/how-to/little-memory.md)."
        )
