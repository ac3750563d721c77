"""Temporary folders end with their block, and those of killed processes with the next one."""

import os
import signal
import subprocess
import sys

from evomerge.run.atomic import TemporaryFolder

HOLD = """
import sys, time
from pathlib import Path
from evomerge.run.atomic import TemporaryFolder
folder = TemporaryFolder(Path(sys.argv[1]))
(folder.path / "weights").write_text("large")
print(folder.path, flush=True)
time.sleep(100)
"""


def test_a_folder_ends_with_its_block_and_is_private(tmp_path):
    with TemporaryFolder(tmp_path) as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "x").mkdir()
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_killed_process_is_removed_and_that_of_a_running_one_stays(tmp_path):
    begun = [sys.executable, "-c", HOLD, str(tmp_path)]
    process = subprocess.Popen(begun, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    left = process.stdout.readline().strip()
    try:
        with TemporaryFolder(tmp_path) as folder:
            assert sorted(map(str, tmp_path.iterdir())) == sorted([left, str(folder)])
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert os.path.isdir(left)  # noqa: PTH112
    with TemporaryFolder(tmp_path) as folder:
        assert list(tmp_path.iterdir()) == [folder]


def test_a_fork_leaves_the_folder_to_its_parent(tmp_path):
    folder = TemporaryFolder(tmp_path)
    child = os.fork()
    if child == 0:
        folder.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert folder.path.is_dir()
    folder.close()
    assert list(tmp_path.iterdir()) == []
