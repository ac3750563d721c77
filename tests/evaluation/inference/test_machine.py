"""The memory of this machine, in containers and jobs that may have less than all of it."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from evomerge.evaluation.inference.machine import free_memory, total_memory

LIMIT, USED, FILES = 10**8, 8 * 10**7, 3 * 10**7


def write_group(folder: Path, limit: str, used: int, names: tuple[str, str], prefix: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    stat = f"anon 5\n{prefix}active_file {FILES - 7}\n{prefix}inactive_file 7\n"
    (folder / "memory.stat").write_text(stat)


@pytest.mark.parametrize(
    ("line", "top", "names", "prefix"),
    [
        ("0::/job/step", "", ("memory.max", "memory.current"), ""),
        (
            "4:memory:/job/step",
            "memory",
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
            "total_",
        ),
    ],
)
def test_a_limit_of_any_group_above_counts_without_pages_of_files(
    tmp_path: Path, line: str, top: str, names: tuple[str, str], prefix: str
) -> None:
    groups = tmp_path / "proc/self/cgroup"
    groups.parent.mkdir(parents=True)
    groups.write_text(f"7:cpu:/\n{line}\n")
    above = tmp_path / "sys/fs/cgroup" / top / "job"
    write_group(above, str(LIMIT), USED, names, prefix)
    write_group(above / "step", "max", 5, names, prefix)
    assert total_memory(tmp_path) == LIMIT
    assert free_memory(tmp_path) == LIMIT - USED + FILES


def test_without_groups_the_machine_counts(tmp_path: Path) -> None:
    assert total_memory(tmp_path) == psutil.virtual_memory().total
    assert 0 < free_memory(tmp_path) <= total_memory(tmp_path)
