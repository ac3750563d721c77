"""The device and the number of CPU threads that models are scored with."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from functools import partial

from evomerge.errors import ConfigError

log = logging.getLogger(__name__)


def choose_device(wanted: str) -> str:
    """Return the torch device for `evaluation.device`; `auto` is an accelerator if there is one.

    Raises:
        ConfigError: torch does not know the device, or this machine does not have it.
    """
    import torch

    if wanted == "auto":
        found = torch.accelerator.current_accelerator(check_available=True)
        return str(found) if found is not None else "cpu"
    try:
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        found = torch.accelerator.current_accelerator(check_available=True)
        usable = "auto or cpu" if found is None else f"auto, cpu or {found.type}"
        raise ConfigError(
            f"`evaluation.device` is {wanted!r}, which cannot be used here ({reason}); use "
            f"{usable}."
        ) from error
    return wanted


def is_built_for_gpu() -> bool:
    """Return whether torch was built for CUDA or ROCm; such a build is larger in memory."""
    import torch

    return torch.version.cuda is not None or torch.version.hip is not None


def count_devices(device: str) -> int:
    """Return the number of devices of a kind, such as `cuda`; 1 for a CPU or a numbered device."""
    import torch

    return torch.cuda.device_count() if device == "cuda" else 1


def use_only(devices: Sequence[str]) -> None:
    """Hide all other accelerators from this process, before it uses one.

    The first of the devices is then `cuda:0`. vLLM always takes the first ones that it sees.

    Args:
        devices: such as `cuda:2`; none: hide nothing.
    """
    if not devices:
        return
    names = [device.partition(":")[2] for device in devices]
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        names = [visible.split(",")[int(number)].strip() for number in names]
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names)


def device_memory(device: str) -> int | None:
    """Return the memory of a device in bytes; None for a CPU, or if it is unknown."""
    import torch

    if not device.startswith("cuda"):
        return None
    return int(torch.cuda.get_device_properties(device).total_memory)


def count_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(available_cores())


def available_cores() -> list[int]:
    """Return the numbers of the CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


SMALL = 30_000_000
"""A model with fewer parameters than this is scored on one CPU thread, without a measurement."""

_GAIN = 1.3
"""How much faster all threads must be than one, since they take the CPU time of all."""


def use_threads(
    wanted: int | None,
    parameters: int,
    device: str,
    score: Callable[[], object] | None,
) -> int:
    """Set the number of CPU threads that torch scores a model with, and return it.

    Args:
        wanted: the number; None: one, or as many as now, whichever is faster.
        parameters: number of the model's parameters.
        device: where the model is scored; elsewhere than on a CPU nothing is measured.
        score: scores the model on a few documents, for the measurement; None: do not measure.
    """
    import torch

    threads = wanted
    if threads is None and device == "cpu" and parameters < SMALL:
        threads = 1
    elif threads is None and device == "cpu" and score is not None:
        threads = fastest_threads(score)
    torch.set_num_threads(threads or torch.get_num_threads())
    return torch.get_num_threads()


def unmeasured_threads(parameters: int, cores: int) -> int:
    """Return the CPU threads of each of several workers: 1 for a small model, else its cores."""
    import torch

    return 1 if parameters < SMALL else min(cores, torch.get_num_threads())


def keep_threads() -> Callable[[], None]:
    """Return a function that sets torch's number of CPU threads to what it is now."""
    import torch

    return partial(torch.set_num_threads, torch.get_num_threads())


def fastest_threads(score: Callable[[], object]) -> int:
    """Return how many CPU threads torch should use to score a model: one, or as many as now.

    With a small model, threads spend more time waiting for each other than computing, and much
    more so on a busy machine. So this is measured. The number of threads changes the last bits of
    a score: a search must keep what was chosen at its start.

    Args:
        score: scores the model on a few documents. It is called several times.
    """
    import torch

    most = torch.get_num_threads()
    if most == 1:
        return 1
    seconds: dict[int, float] = {}
    try:
        for threads in (1, most):
            torch.set_num_threads(threads)
            score()
            for _ in range(2):
                began = time.perf_counter()
                score()
                passed = time.perf_counter() - began
                seconds[threads] = min(passed, seconds.get(threads, passed))
    finally:
        torch.set_num_threads(most)
    chosen = most if seconds[most] * _GAIN < seconds[1] else 1
    log.info("Scoring on %d CPU threads (seconds for a few documents: %s).", chosen, seconds)
    return chosen
