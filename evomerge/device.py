"""The machine: devices, processor, CPU threads and memory; errors that say a device failed."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from evomerge.errors import ConfigError, blaming, one_line

if TYPE_CHECKING:
    from torch import nn

LIMITS = ("NUMBA_CPU_NAME", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR")
"""Environment variables that keep libraries from instructions of the processor."""

SMALL = 30_000_000
"""A model with fewer parameters than this is scored on one CPU thread: several would wait for each
other most of the time."""

_SLOWER = 1.5  # times as slow as float32

_EXHAUSTED = ("out of memory", "can't allocate memory", "_status_alloc_failed")
_BROKEN = (
    *("cuda error", "hip error", "cublas_status_", "cudnn_status_", "cudnn error", "nccl error"),
    "device-side assert",
)


def choose_device(device: str) -> str:
    """Return the torch device for `evaluation.device`; `auto` is an accelerator if there is one.

    Raises:
        ConfigError: torch does not know the device, or this machine does not have it.
    """
    import torch

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if device == "auto":
        return "cpu" if accelerator is None else str(accelerator)
    usable = f"auto, cpu or {accelerator.type}" if accelerator else "auto or cpu"
    why = (
        f"`evaluation.device` is {device!r}, which cannot be used here ({{reason}}); use {usable}."
    )
    with blaming(ConfigError, why, RuntimeError, AssertionError):
        torch.empty(0, device=device)
    return device


def is_built_for_gpu() -> bool:
    """Return whether torch was built for CUDA or ROCm; such a build is larger in memory."""
    import torch

    return torch.version.cuda is not None or torch.version.hip is not None


def count_devices(device: str) -> int:
    """Return the number of devices of a kind, such as `cuda`; 1 for a CPU or a numbered device."""
    import torch

    return torch.cuda.device_count() if device == "cuda" else 1


def use_only(devices: Sequence[str]) -> None:
    """Hide all accelerators but some (`cuda:2`) from this process, before it uses one; none: no.

    The first of them is then `cuda:0`. vLLM always takes the first ones that it sees.
    """
    names = [device.partition(":")[2] for device in devices]
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        names = [visible.split(",")[int(number)].strip() for number in names]
    if devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names)


def device_memory(device: str) -> int | None:
    """Return the memory of a device in bytes; None for a CPU, or if it is unknown."""
    import torch

    if not device.startswith("cuda"):
        return None
    return int(torch.cuda.get_device_properties(device).total_memory)


def total_memory(root: Path = Path("/")) -> int:
    """Return the bytes of memory that this process and its workers could have without others.

    `root` is the folder with `proc` and `sys`.
    """
    return min([int(psutil.virtual_memory().total), *(limit for limit, _ in _groups(root))])


def free_memory(root: Path = Path("/")) -> int:
    """Return the bytes of memory that are free now, with what the system can take back."""
    left = (max(0, limit - used) for limit, used in _groups(root))
    return min([int(psutil.virtual_memory().available), *left])


def _groups(root: Path) -> Iterator[tuple[int, int]]:
    """Yield limit and use in bytes of each group of processes (cgroup) that this one belongs to.

    A container or a Slurm job has one. Anonymous and shared memory count as used, since the system
    takes back pages of files. Source: docs.kernel.org/admin-guide/cgroup-v2.html.
    """
    groups, top = root / "proc/self/cgroup", root / "sys/fs/cgroup"
    for line in groups.read_text().splitlines() if groups.exists() else ():
        if not line.startswith("0::"):  # of version 1
            continue
        group = top / line.removeprefix("0::").lstrip("/")  # in a container only the top is there
        for folder in (group, *(above for above in group.parents if above.is_relative_to(top))):
            with suppress(OSError, ValueError, KeyError):  # "max" is no limit
                limit = int((folder / "memory.max").read_text())
                stat = dict(map(str.split, (folder / "memory.stat").read_text().splitlines()))
                yield limit, int(stat["anon"]) + int(stat.get("shmem", 0))


def count_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def count_threads() -> int:
    """Return `OMP_NUM_THREADS`, or else the number of cores that the process may use, as torch."""
    limit = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(limit) if limit.isdecimal() and int(limit) else count_cores()


def processor() -> str:
    """Return the kind of this process's processor, such as `x86_64 znver4 AVX512`.

    It is all that chooses the code for sums and products, on which their last bits depend: the
    architecture, the name that LLVM has for the processor (libraries choose by its maker, too), the
    instruction set that torch uses, and `LIMITS` that are set.
    """
    import torch
    from llvmlite.binding import get_host_cpu_name

    limits = [f"{limit}={os.environ[limit]}" for limit in LIMITS if os.environ.get(limit)]
    used = torch.backends.cpu.get_cpu_capability()
    return " ".join((platform.machine(), get_host_cpu_name(), used, *limits))


def is_slow(dtype: str) -> bool:
    """Return whether this processor multiplies matrices more slowly in a dtype than in float32.

    It is measured, for about 0.3 s on one thread: torch computes in every dtype, but without
    instructions for it each number is converted.
    """
    import torch

    left, right = torch.ones(64, 1024), torch.ones(1024, 1024)

    def seconds(kind: torch.dtype) -> float:
        a, b = left.to(kind), right.to(kind)
        times = []
        for _ in range(6):
            began = time.thread_time()
            torch.nn.functional.linear(a, b)
            times.append(time.thread_time() - began)
        return min(times)

    with torch_threads(1):  # several may wait for a core; of this one the CPU time is measured
        return seconds(getattr(torch, dtype)) > _SLOWER * seconds(torch.float32)


def choose_threads(parameters: int, cores: int | None = None) -> int:
    """Return the number of CPU threads to score a model with: one for a small model, else all.

    All are `cores`, or as many as torch uses now if those are fewer or None is given. The number
    changes the last bits of a score, so it depends on the model and the machine alone.
    """
    import torch

    most = torch.get_num_threads()
    return 1 if parameters < SMALL else min(most if cores is None else cores, most)


def use_threads(count: int) -> None:
    """Set the number of CPU threads that torch uses in this process."""
    import torch

    torch.set_num_threads(count)


@contextmanager
def torch_threads(count: int | None = None) -> Iterator[int]:
    """Let torch use this many CPU threads within (None: as many as now, whoever changes it there).

    Yields how many it uses otherwise. Sums that several threads share have other last bits than
    those of one.
    """
    import torch

    before = torch.get_num_threads()
    if count not in (None, before):
        use_threads(count)
    try:
        yield before
    finally:
        if torch.get_num_threads() != before:
            use_threads(before)


def is_exhausted(error: BaseException) -> bool:
    """Return whether an error says that memory ran out."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or _says(error, _EXHAUSTED)


def is_device_failure(error: BaseException) -> bool:
    """Return whether an error says that an accelerator no longer works in this process."""
    import torch

    # Old supported versions of torch have no AcceleratorError.
    is_kind = isinstance(error, getattr(torch, "AcceleratorError", ()))
    return not is_exhausted(error) and (is_kind or _says(error, _BROKEN))


def _says(error: BaseException, signs: tuple[str, ...]) -> bool:
    return isinstance(error, RuntimeError) and any(s in one_line(error).lower() for s in signs)


def peak_memory() -> dict[str, int]:
    """Return the largest memory of this process so far, in bytes.

    `process` is resident memory, in which mapped files count; `accelerator` is what torch has
    reserved on all accelerators together, if it uses one.
    """
    import torch

    if sys.platform == "win32":
        peak = {"process": int(psutil.Process().memory_info().peak_wset)}
    else:
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak = {"process": most if sys.platform == "darwin" else 1024 * most}
    with suppress(OSError, IndexError, ValueError):
        # The number of `getrusage` may be that of the process which has started this one.
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        peak["process"] = 1024 * int(status.split("VmHWM:")[1].split()[0])
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        devices = range(torch.cuda.device_count())
        peak["accelerator"] = sum(map(torch.cuda.max_memory_reserved, devices))
    return peak


def free_weights(model: nn.Module | None) -> None:
    """Free the memory of a model's weights, even if other references to the model exist."""
    import torch

    with suppress(Exception):  # an objective function may have changed the model in any way
        for tensor in () if model is None else (*model.parameters(), *model.buffers()):
            tensor.grad = None
            tensor.data = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
