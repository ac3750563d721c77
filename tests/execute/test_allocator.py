"""The memory that a process keeps, by what the system counts."""

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.long

COUNT = """
import resource, sys, torch
from evomerge.execute.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def faults(count):
    began = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        torch.zeros(64 << 20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - began
faults(1)
print(faults(4))
"""


def page_faults(mode: str, **environment: str) -> int:
    """Return the pages that the system gave for four tensors of 64 MiB, one after the other."""
    names = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")
    clean = {name: value for name, value in os.environ.items() if name not in names}
    command = [sys.executable, "-c", COUNT, mode]
    return int(subprocess.check_output(command, env=clean | environment, text=True))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
def test_freed_memory_is_used_again() -> None:
    pages = (64 << 20) // os.sysconf("SC_PAGE_SIZE")
    plain, kept = page_faults("plain"), page_faults("keep")
    assert kept < pages / 100
    assert plain > 4 * kept + 4
    assert page_faults("keep", MALLOC_MMAP_THRESHOLD_="131072") > plain / 2, "set by the user"
