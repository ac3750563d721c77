"""The consent of a user that a search runs code.

It is given with each command. A run says which consent it was started with, but that allows
nothing, since a run folder may come from somebody else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evomerge.errors import ConfigError

_MOST_NAMED = 6  # files that a sentence names


@dataclass(frozen=True)
class Permissions:
    """What the user allows a search to do.

    Attributes:
        allow_code: accept tasks that run code which models write.
        trust_code: run code that the search file names and that is in no installed package.
    """

    allow_code: bool = False
    trust_code: bool = False

    def require(self, files: Sequence[Path]) -> None:
        """Raise a ConfigError if there are files with code of a search, and it is not trusted."""
        if not files or self.trust_code:
            return
        here = Path.cwd()
        names = [str(file.relative_to(here) if here in file.parents else file) for file in files]
        more = len(names) - _MOST_NAMED
        named = ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
        raise ConfigError(
            f"This search runs code of its own: {named}; read it, then allow it with --trust-code."
        )


NOTHING = Permissions()
