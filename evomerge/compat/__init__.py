"""What is private in a library or differs between its versions: a file for each library."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from evomerge.errors import SearchError


def need(owner: Any, name: str) -> Any:
    """Return an attribute of a library's object or module that its next version may not have.

    Raises:
        SearchError: it is gone.
    """
    try:
        return getattr(owner, name)
    except AttributeError:
        place = (
            getattr(owner, "__name__", None) or f"{type(owner).__module__}.{type(owner).__name__}"
        )
        library = place.partition(".")[0]
        raise SearchError(
            f"{library} {version(library)} has no {name!r} in {place}, which evomerge uses; "
            f"install an older version of {library}."
        ) from None
