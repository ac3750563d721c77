"""What is private in a library or differs between its versions: a file for each library."""

import os
from importlib.metadata import version
from typing import Any

from evomerge.errors import SearchError


def count_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def need(library: str, owner: Any, name: str) -> Any:
    """Return an attribute of a library's object or module that its next version may not have.

    Raises:
        SearchError: it is gone.
    """
    if not hasattr(owner, name):
        raise SearchError(
            f"{library} {version(library)} has no {name!r} in {owner!r:.100}, which evomerge uses; "
            f"install an older version of {library}."
        )
    return getattr(owner, name)
