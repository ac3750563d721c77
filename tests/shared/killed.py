"""Searches in this process."""

import warnings
from pathlib import Path
from typing import Any

import evomerge


def searched(file: Path, run: Path, **how: Any) -> evomerge.Run:
    """Search in this process, without warnings and a bar."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return evomerge.search(file, run, progress=False, **how)
