"""Errors that say that memory ran out, and errors that say that the device no longer works."""

from __future__ import annotations

import pytest
import torch

from evomerge.evaluation.inference.memory import is_device_failure, is_exhausted

EXHAUSTED = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:116] . DefaultCPUAllocator: can't allocate memory"
    ),
    RuntimeError("HIP out of memory. Tried to allocate 2.00 GiB"),
]
BROKEN = [
    RuntimeError(
        "CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously "
        "reported at some other API call"
    ),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
    RuntimeError("HIP error: no ROCm-capable device is detected"),
]
if hasattr(torch, "AcceleratorError"):
    BROKEN.append(torch.AcceleratorError("the accelerator has fallen off the bus"))
NEITHER = [
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)"),
    ValueError("CUDA error: says somebody"),
    MemoryError(),
    KeyError("out of memory"),
]


@pytest.mark.parametrize("error", EXHAUSTED, ids=str)
def test_memory_ran_out(error: Exception) -> None:
    assert is_exhausted(error)
    assert not is_device_failure(error)


@pytest.mark.parametrize("error", BROKEN, ids=str)
def test_the_device_is_lost(error: Exception) -> None:
    assert is_device_failure(error)
    assert not is_exhausted(error)


@pytest.mark.parametrize("error", NEITHER, ids=repr)
def test_the_candidate_is_at_fault(error: Exception) -> None:
    assert not is_device_failure(error)
    assert not is_exhausted(error)
