"""The consent of a user that a search runs code, given with each command.

What a run records of it allows nothing, since a run folder may come from somebody else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evomerge.errors import ConfigError


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
        named = ", ".join(map(str, files[:6])) + (" and others" if files[6:] else "")
        raise ConfigError(
            f"This search runs code of its own: {named}; read it, then allow it with --trust-code."
        )


NOTHING = Permissions()
