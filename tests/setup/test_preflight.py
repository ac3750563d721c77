"""What `evomerge validate` says about memory, against a search that runs."""

from __future__ import annotations

import subprocess
import sys

import pytest
from search_run import environment, evomerge_json, write_search

RUN = """
from pathlib import Path
from evomerge.__main__ import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


def size(text: str) -> float:
    number, unit = text.split()
    return float(number) * {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}[unit]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_memory_of_a_search_is_what_validate_says(tmp_path):
    file = write_search(tmp_path, budget={"candidates": 5})
    said = {name: size(text) for name, text in evomerge_json("validate", file)["memory"].items()}
    parts = sum(value for name, value in said.items() if name != "together")
    assert abs(said["together"] - parts) < 0.01 * parts
    done = subprocess.run(
        [sys.executable, "-c", RUN, "search", str(file), "--run", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    peak = 1024 * int(done.stdout.splitlines()[-1])
    assert 0.7 < peak / said["together"] < 1.4
