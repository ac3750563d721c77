"""How much memory a search takes, and whether its models fit."""

from __future__ import annotations

import math

from evomerge.config.schema import SearchConfig
from evomerge.errors import ConfigError
from evomerge.evaluation.inference.device import (
    choose_device,
    device_memory,
    is_built_for_gpu,
)
from evomerge.evaluation.inference.vllm_start import ENGINE_SHARE
from evomerge.models.checkpoint import Checkpoint, text_section
from evomerge.report.words import size_text
from evomerge.setup.checked import CheckedSearch
from evomerge.setup.worker import cache_memory
from evomerge.setup.workers import workers_of

_LIBRARIES = 0.8e9  # bytes, of torch, transformers and lm-eval, measured on Linux
_LIBRARIES_CUDA = 1.4e9  # the same if torch is built for CUDA: its files are mapped, too
_TOKENS = 512  # of a batch on a CPU whose activations a backward pass keeps, about
_POSITIONS = 256  # of a batch on a CPU for which logits are computed at a time, about
_MOST = 0.9  # of an accelerator's memory that weights may take; batches need the rest


def weights_of(config: SearchConfig, host: Checkpoint) -> int:
    """Return the size of a merged model's weights in bytes."""
    return host.parameters * {"float32": 4}.get(config.dtype, 2)


def check_fit(config: SearchConfig, host: Checkpoint) -> None:
    """Check that the merged models fit on an accelerator, if they are not divided over several.

    Workers may share an accelerator, and a vLLM engine takes a part of it. Workers of a Ray cluster
    have the accelerators of their machines, which are not checked here.

    Raises:
        ConfigError: it does not fit.
    """
    evaluation = config.evaluation
    is_elsewhere = config.executor.kind == "ray" and config.executor.ray.address is not None
    if evaluation.device_map is not None or is_elsewhere:
        return
    total = device_memory(choose_device(evaluation.device))
    if total is None:
        return
    weights, sharing = weights_of(config, host), workers_of(config).on_an_accelerator
    is_vllm = evaluation.backend == "vllm"
    if sharing * weights > _MOST * total * (1 - ENGINE_SHARE if is_vllm else 1):
        models = "the weights" if sharing == 1 else f"the weights of {sharing} workers"
        raise ConfigError(
            f"`evaluation.device_map` is null, but {models}, {size_text(sharing * weights)} in "
            f"{config.dtype}, do not fit on an accelerator of {size_text(total)}"
            f"{' beside a vLLM engine' if is_vllm else ''}; set it to 'auto' to divide the model "
            "over several, choose a smaller dtype, or lower `executor.workers`."
        )


def memory_of(checked: CheckedSearch) -> dict[str, float]:
    """Return about how much memory a search takes on a machine, in bytes, by what takes it.

    `parents` are files that are mapped into memory: they count as memory of a process, but all
    workers share their pages, and the system takes these back if it needs them. `prepared merges`
    is the most that is kept from candidate to candidate; it is filled by the first candidates of
    each method. The weights, and what batches need, are on the accelerator if there is one.
    """
    config, host = checked.config, checked.checkpoints[checked.host]
    count = workers_of(config).on_a_machine
    kept = min(_prepared_bytes(checked), cache_memory(count))
    depth = max(1.0, checked.space.max_depth / len(host.decoder_stack))
    # The logits of one batch on a CPU: twice, in float32.
    vocabulary = host.config.get("vocab_size") or 0
    found: dict[str, float] = {
        "libraries": count * (_LIBRARIES_CUDA if is_built_for_gpu() else _LIBRARIES),
        "weights": count * weights_of(config, host) * depth,
        "parents": sum(_mapped(checked)),
        "prepared merges": count * kept,
        "batches": count * _POSITIONS * vocabulary * 8.0,
    }
    if config.optimizer.descends:
        found["backward pass"] = count * _backward_bytes(config, host)
    return {**found, "together": sum(found.values())}


def _backward_bytes(config: SearchConfig, host: Checkpoint) -> float:
    """Return about how many bytes the backward pass of one batch needs.

    These are activations, logits, and the gradient of one tensor with its copies in float32.
    """
    from evomerge.evaluation.inference.backward import kept_bytes  # imports torch

    itemsize = {"float32": 4}.get(config.dtype, 2)
    largest = max(math.prod(info.shape) for info in host.tensors.values())
    vocabulary = host.config.get("vocab_size") or 0
    settings = text_section(host.config)
    kept = kept_bytes(settings, itemsize) + vocabulary * 12
    return _TOKENS * kept + largest * (itemsize + 8)


def _prepared_bytes(checked: CheckedSearch) -> float:
    """Return how many bytes a worker needs to keep all merges that it has prepared."""
    from evomerge.merging.methods import get_method

    config, host = checked.config, checked.checkpoints[checked.host]
    methods = () if config.space.kind == "dataflow" else config.space.methods
    found = 0.0
    for method in map(get_method, methods):
        base = None if method.base == "none" else config.base
        sources = sum(parent != base for parent in config.parents)
        found += method.cached_bytes * host.parameters * sources
    return found


def _mapped(checked: CheckedSearch) -> list[int]:
    """Return the size of each model in bytes; parents with different adapters share a model."""
    return list({item.folder: item.nbytes for item in checked.checkpoints.values()}.values())
