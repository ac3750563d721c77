"""The memory that the C library keeps: what a forward pass frees is used by the next one."""

import ctypes
import os
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # the names of parameters in <malloc.h> of glibc
_KEPT = 2**31 - 1  # bytes that are freed at the end of the heap before they go to the system
_LARGEST = 2**30  # bytes of an allocation that is made on the heap


def keep_freed_memory() -> None:
    """Make glibc keep up to 2 GiB of freed memory, unless an environment variable sets this.

    For the command line and workers: every forward pass on a CPU frees the same large tensors, and
    the system fills each page with zeros when it is used again, up to a third of the time of a
    small model. Source: mallopt(3), `M_MMAP_THRESHOLD` and `M_TRIM_THRESHOLD`.
    """
    names = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in names):
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_TRIM_THRESHOLD, _KEPT)
    libc.mallopt(_MMAP_THRESHOLD, _LARGEST)
