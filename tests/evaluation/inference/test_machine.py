"""The memory of this machine, in containers and jobs that may have less than all of it."""

from __future__ import annotations

from pathlib import Path

import psutil

from evomerge.evaluation.inference.device import free_memory, total_memory

LIMIT, USED, FILES = 10**8, 8 * 10**7, 3 * 10**7


def write_group(folder: Path, limit: str, used: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    stat = f"anon 5\nactive_file {FILES - 7}\ninactive_file 7\n"
    (folder / "memory.stat").write_text(stat)


def test_a_limit_of_any_group_above_counts_without_pages_of_files(tmp_path: Path) -> None:
    groups = tmp_path / "proc/self/cgroup"
    groups.parent.mkdir(parents=True)
    groups.write_text("7:cpu:/\n0::/job/step\n")
    above = tmp_path / "sys/fs/cgroup/job"
    write_group(above, str(LIMIT), USED)
    write_group(above / "step", "max", 5)
    assert total_memory(tmp_path) == LIMIT
    assert free_memory(tmp_path) == LIMIT - USED + FILES


def test_without_groups_the_machine_counts(tmp_path: Path) -> None:
    assert total_memory(tmp_path) == psutil.virtual_memory().total
    assert 0 < free_memory(tmp_path) <= total_memory(tmp_path)
