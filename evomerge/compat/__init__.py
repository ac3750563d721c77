"""What is private in a library or differs between its versions: a file for each library."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from typing import Any

from evomerge.errors import SearchError


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


@contextmanager
def quiet(*loggers: str, level: int = logging.ERROR) -> Iterator[None]:
    """Let the loggers of libraries log nothing below a level within."""
    with ExitStack() as stack:
        for logger in map(logging.getLogger, loggers):
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(level)
        yield
