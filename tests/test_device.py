"""Threads, accelerators and memory that models are scored with, and the errors of devices."""

import os
import subprocess
import sys

import psutil
import pytest
import torch

from evomerge.device import (
    SMALL,
    choose_threads,
    free_memory,
    is_device_failure,
    is_exhausted,
    is_slow,
    total_memory,
    use_only,
)

LIMIT, USED = 10**8, 5 * 10**7


def test_a_small_model_is_scored_on_one_thread_and_others_on_all():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert choose_threads(SMALL - 1) == choose_threads(SMALL, 1) == 1
        assert choose_threads(SMALL) == choose_threads(SMALL, 5) == 2
    finally:
        torch.set_num_threads(before)


def test_other_accelerators_are_hidden(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    use_only(())
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    use_only(("cuda:2", "cuda:3"))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,3"
    use_only(("cuda:1",))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3", "numbered among those that are visible"


def write_group(folder, limit, used):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.stat").write_text(f"anon {used}\nactive_file 6\ninactive_file 7\n")


def test_a_limit_of_any_group_above_counts_without_pages_of_files(tmp_path):
    assert total_memory(tmp_path) == psutil.virtual_memory().total
    assert 0 < free_memory(tmp_path) <= total_memory(tmp_path)
    groups = tmp_path / "proc/self/cgroup"
    groups.parent.mkdir(parents=True)
    groups.write_text("7:cpu:/\n0::/job/step\n")
    above = tmp_path / "sys/fs/cgroup/job"
    write_group(above, str(LIMIT), USED)
    write_group(above / "step", "max", 5)
    assert total_memory(tmp_path) == LIMIT
    assert free_memory(tmp_path) == LIMIT - USED


CUBLAS = "CUDA error: CUBLAS_STATUS_{} when calling `cublasCreate(handle)`"
EXHAUSTED = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError(CUBLAS.format("ALLOC_FAILED")),
    RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("HIP out of memory. Tried to allocate 2.00 GiB"),
)
BROKEN = (
    RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might be ..."),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError(CUBLAS.format("EXECUTION_FAILED")),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
    RuntimeError("HIP error: no ROCm-capable device is detected"),
    *([torch.AcceleratorError("it is gone")] if hasattr(torch, "AcceleratorError") else []),
)
NEITHER = (
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)"),
    ValueError("CUDA error: says somebody"),
    MemoryError(),
    KeyError("out of memory"),
)


@pytest.mark.parametrize("error", [*EXHAUSTED, *BROKEN, *NEITHER], ids=repr)
def test_what_an_error_says_of_memory_and_of_the_device(error):
    assert is_exhausted(error) == (error in EXHAUSTED)
    assert is_device_failure(error) == (error in BROKEN)


def test_a_dtype_without_instructions_is_slow():
    """With AVX2 alone oneDNN converts each number of bfloat16."""
    code = "from evomerge.device import is_slow; print(is_slow('bfloat16'))"
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True" and not is_slow("float32")
