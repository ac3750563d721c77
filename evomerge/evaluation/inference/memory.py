"""Errors that say that memory ran out or that a device failed; memory that was used; freeing it."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from evomerge.errors import one_line

_EXHAUSTED = ("out of memory", "can't allocate memory", "_status_alloc_failed")
_BROKEN = (
    *("cuda error", "hip error", "cublas_status_", "cudnn_status_", "cudnn error", "nccl error"),
    "device-side assert",
)


def is_exhausted(error: BaseException) -> bool:
    """Return whether an error says that memory ran out."""
    return isinstance(error, torch.OutOfMemoryError) or _says(error, _EXHAUSTED)


def is_device_failure(error: BaseException) -> bool:
    """Return whether an error says that an accelerator no longer works in this process."""
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
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {"process": most if sys.platform == "darwin" else 1024 * most}
    with suppress(OSError, IndexError, ValueError):
        # The number of `getrusage` may be that of the process which has started this one.
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        found["process"] = 1024 * int(status.split("VmHWM:")[1].split()[0])
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        devices = range(torch.cuda.device_count())
        found["accelerator"] = sum(map(torch.cuda.max_memory_reserved, devices))
    return found


def free_weights(model: nn.Module | None) -> None:
    """Free the memory of a model's weights, even if other references to the model exist."""
    with suppress(Exception):  # an objective function may have changed the model in any way
        for tensor in () if model is None else (*model.parameters(), *model.buffers()):
            tensor.grad = None
            tensor.data = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
