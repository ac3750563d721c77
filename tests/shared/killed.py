"""Searches in this process, and the law that one which is killed and resumed was never killed."""

from __future__ import annotations

import signal
import warnings
from pathlib import Path
from typing import Any

from search_run import kill_when

import evomerge


def searched(file: Path, run: Path, **how: Any) -> evomerge.Run:
    """Search in this process, without warnings and a bar."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return evomerge.search(file, run, progress=False, **how)


def check_never_killed(file: Path, run: Path, whole: Path, lines: int) -> None:
    """Kill a search when its journal has so many lines, go on, and compare it with a whole one."""
    begin = ["search", file, "--run", run]
    assert kill_when(begin, run / "journal.jsonl", lines, 0.01) == -signal.SIGKILL
    searched(file, run, resume=True)
    for name in ("journal.jsonl", "best.yaml"):
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name
