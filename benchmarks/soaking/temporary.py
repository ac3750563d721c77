"""The folder for temporary files of the commands that are watched."""

from __future__ import annotations

from pathlib import Path


def temporary_files(folder: Path) -> list[str]:
    """Return the names in a folder, without the cache that torch keeps there."""
    names = sorted(path.name for path in folder.iterdir())
    return [name for name in names if not name.startswith("torchinductor_")]
