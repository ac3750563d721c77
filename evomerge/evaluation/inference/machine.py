"""The memory of this machine that processes may use: a container or a Slurm job may have less."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil


def total_memory(root: Path = Path("/")) -> int:
    """Return the bytes of memory that this process and its workers could have without others.

    Args:
        root: folder with `proc` and `sys`.
    """
    return min([int(psutil.virtual_memory().total), *(limit for limit, _ in _groups(root))])


def free_memory(root: Path = Path("/")) -> int:
    """Return the bytes of memory that are free now, with what the system can take back.

    Args:
        root: folder with `proc` and `sys`.
    """
    left = (max(0, limit - used) for limit, used in _groups(root))
    return min([int(psutil.virtual_memory().available), *left])


def _groups(root: Path) -> Iterator[tuple[int, int]]:
    """Yield limit and use in bytes of each group of processes (cgroup) that this one belongs to.

    Pages of files do not count as used, since the system takes them back.

    Source: docs.kernel.org/admin-guide/cgroup-v2.html, and cgroup-v1/memory.html.
    """
    groups = root / "proc/self/cgroup"
    for line in groups.read_text().splitlines() if groups.exists() else ():
        _, kinds, path = line.split(":", 2)
        if not kinds:
            top, names, prefix = root / "sys/fs/cgroup", ("memory.max", "memory.current"), ""
        elif "memory" in kinds.split(","):
            top, prefix = root / "sys/fs/cgroup/memory", "total_"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        group = top / path.lstrip("/")  # in a container it may not be there, but the top is
        for folder in (group, *(above for above in group.parents if above.is_relative_to(top))):
            with suppress(OSError, ValueError):  # "max" is no limit
                limit, used = (int((folder / name).read_text()) for name in names)
                stat = dict(
                    line.split() for line in (folder / "memory.stat").read_text().splitlines()
                )
                files = sum(
                    int(stat.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive")
                )
                yield limit, used - files
