"""Noticing a journal that was emptied, while other files show that it had events."""

from __future__ import annotations

import shlex
from pathlib import Path

from evomerge.errors import RunFolderError
from evomerge.run.timings import Timings

BEST = "best.yaml"
_WRITTEN_LATER = (BEST, "best.mergekit.yaml", "front")
"""Files and folders that a run has only after a candidate was scored."""


def is_emptied(journal: Path) -> str | None:
    """Return the name of a file by which a journal of 0 bytes had events; None: it is in order.

    A kill before the first event leaves none of these files.
    """
    if not journal.is_file() or journal.stat().st_size:
        return None
    folder = journal.parent
    found = [name for name in _WRITTEN_LATER if (folder / name).exists()]
    if not found and Timings(folder / "timings.jsonl").by_candidate():
        found = ["timings.jsonl"]
    return found[0] if found else None


def check_not_emptied(journal: Path) -> None:
    """Check that a journal was not emptied after candidates were scored.

    Raises:
        RunFolderError: it was.
    """
    sign = is_emptied(journal)
    if sign is not None:
        command = f"evomerge resume {shlex.quote(str(journal.parent))} --truncate"
        raise RunFolderError(
            f"{journal} is empty, but {sign} shows that candidates were scored; restore it from a "
            f"copy, or begin the search anew by `{command}`."
        )
