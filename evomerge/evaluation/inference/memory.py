"""The batch limits of a device, the memory that was used, and errors of a device."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Any, Literal

import torch

from evomerge.evaluation.inference.batches import Batching

_CACHE = 24 * 2**20  # bytes of activations that fit into the caches of a CPU
_CPU_LEAST, _CPU_MOST = 256, 1024  # tokens
_SHARE = 0.25  # share of a GPU's memory for a batch, in addition to the weights
_GPU_LEAST, _GPU_MOST = 256, 2**17  # tokens
_EXHAUSTED = (
    "out of memory",
    "can't allocate memory",
    "_status_alloc_failed",  # cuBLAS, cuDNN and their like
)
_BROKEN = (
    "cuda error",
    "hip error",
    "cublas_status_",
    "cudnn_status_",
    "cudnn error",
    "nccl error",
    "device-side assert",
)
_READ = 10_000  # characters of an error's message that are searched
_CPU_PASS, _GPU_PASS = 48, 512  # tokens that cost about as much as starting a forward pass


def batching(model: Any, batch_size: int | Literal["auto"]) -> Batching:
    """Return the size limits of batches on the model's device.

    They depend on the model's shape and the device's total memory, not on its free memory, so that
    a resumed search makes the same batches.
    """
    rows = None if batch_size == "auto" else batch_size
    config = model.config.get_text_config()
    width = int(config.hidden_size)
    inner = int(getattr(config, "intermediate_size", None) or 4 * width)
    activations = model.dtype.itemsize * (8 * width + 3 * inner)
    if model.device.type == "cpu":
        tokens = max(_CPU_LEAST, min(_CPU_MOST, _CACHE // activations))
        return Batching(tokens, rows, pass_overhead("cpu"))
    kept = model.dtype.itemsize * 2 * width * int(config.num_hidden_layers)
    total = 8 * 2**30
    if model.device.type == "cuda":
        total = torch.cuda.get_device_properties(model.device).total_memory
    per_token = activations + kept + 12 * int(config.vocab_size)
    tokens = max(_GPU_LEAST, min(_GPU_MOST, int(total * _SHARE / per_token)))
    return Batching(tokens, rows, pass_overhead(model.device.type))


def pass_overhead(device: str) -> int:
    """Return how many tokens cost about as much time as starting one more forward pass.

    Args:
        device: a torch device, such as `cpu` or `cuda:0`.
    """
    return _CPU_PASS if device == "cpu" else _GPU_PASS


def is_exhausted(error: BaseException) -> bool:
    """Return whether an error says that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    text = _text(error)
    return isinstance(error, RuntimeError) and any(sign in text for sign in _EXHAUSTED)


def is_device_failure(error: BaseException) -> bool:
    """Return whether an error says that an accelerator no longer works in this process.

    An error that says that memory ran out is not one of these, since the device still works then.
    """
    if not isinstance(error, RuntimeError) or is_exhausted(error):
        return False
    # Old supported versions of torch have no AcceleratorError.
    kind = getattr(torch, "AcceleratorError", ())
    return isinstance(error, kind) or any(sign in _text(error) for sign in _BROKEN)


def _text(error: BaseException) -> str:
    try:
        return str(error)[:_READ].lower()
    except Exception:  # the `__str__` of a user's exception class may fail
        return ""


def peak_memory() -> dict[str, int]:
    """Return the largest memory of this process so far, in bytes.

    Returns:
        `process`: resident memory, in which mapped files count. `accelerator`: memory of the
        accelerators together that torch has reserved, if it has reserved any.
    """
    found = {"process": _peak_of_process()}
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        devices = range(torch.cuda.device_count())
        found["accelerator"] = sum(torch.cuda.max_memory_reserved(number) for number in devices)
    return found


def _peak_of_process() -> int:
    """Return the largest resident memory of this process."""
    try:
        # The number of `getrusage` may be that of the process which has started this one.
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError, ValueError):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else 1024 * most
