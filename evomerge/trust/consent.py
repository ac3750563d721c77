"""The consent of a user that code of search files runs, kept by digest outside of any run folder.

The file with it is `trusted.json` in the state folder of the user, such as
`~/.local/state/evomerge`, or in the folder that the environment variable EVOMERGE_STATE names.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evomerge.errors import ConfigError, InputError, one_line
from evomerge.run.atomic import replace_text
from evomerge.trust.files import CodeFile, allow

VARIABLE = "EVOMERGE_STATE"
"""Environment variable with the folder of the file, in place of the user's own."""

_VERSION = 1
_MOST_NAMED = 6  # files that a sentence names

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Consent:
    """How it is decided whether the code of a search file may run.

    Attributes:
        given: whether the user allows it now (`--trust-code`).
        ask: shows files to the user and returns the answer; None: there is nobody to ask.
        told: is called with the files that `given` allows now for the first time.
        digests: digests of the only files that may run, whatever else the user has allowed. A
            worker gets them from the process that started it, maybe on another machine. None: what
            the user has allowed on this machine decides.
    """

    given: bool = False
    ask: Callable[[Sequence[Path]], bool] | None = None
    told: Callable[[Sequence[Path]], None] | None = None
    digests: frozenset[str] | None = None

    def require(self, files: Sequence[CodeFile]) -> None:
        """Let this process run the files, and record the consent; else raise.

        Raises:
            ConfigError: the user has not allowed one of them, or it has changed since.
        """
        if self.digests is not None:
            self._require_same(files, self.digests)
            return
        recorded = _read()
        new = [file for file in files if file.digest not in recorded]
        asked = [file.path for file in new if not file.imported]
        if asked:
            if self.given:
                if self.told is not None:
                    self.told(asked)
            elif self.ask is None or not self.ask(asked):
                raise ConfigError(
                    f"This search runs code that you have not allowed on this machine"
                    f"{_damage()}: {name_files(asked)}; read it, then allow it with --trust-code."
                )
        if new:
            record({file.digest: str(file.path) for file in new})
        allow(files)

    def _require_same(self, files: Sequence[CodeFile], digests: frozenset[str]) -> None:
        """Let this process run the files if they are those of the process that started it."""
        others = [file.path for file in files if file.digest not in digests]
        if others:
            raise ConfigError(
                f"This code is not what was allowed when the search was started or resumed: "
                f"{name_files(others)}; give every machine the same files, or read them and go on "
                "with `evomerge resume --trust-code`."
            )
        allow(files)


def name_files(files: Sequence[Path]) -> str:
    """Return the names of files for a sentence, relative to the working folder if they are in it.

    Of many files only the first ones are named.
    """
    here = Path.cwd()
    names = [str(file.relative_to(here) if here in file.parents else file) for file in files]
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def is_recorded(digest: str) -> bool:
    """Return whether the user has allowed the file with this digest, on this machine."""
    return digest in _read()


def record(files: Mapping[str, str]) -> None:
    """Record that the user allows these files.

    If the record cannot be written, a warning says so.

    Args:
        files: digest -> name, which only people read.
    """
    if files.keys() <= (known := _read()).keys():
        return
    content = {"version": _VERSION, "files": {**known, **files}}
    place = state_file()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        replace_text(place, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    except OSError as error:
        log.warning("%s cannot be written (%s), so you will be asked again", place, error.strerror)


def state_file() -> Path:
    """Return the file that keeps what the user has allowed."""
    if folder := os.environ.get(VARIABLE):
        return Path(folder) / "trusted.json"
    from platformdirs import user_state_path

    return user_state_path("evomerge", appauthor=False) / "trusted.json"


def digests_of(files: Iterable[CodeFile]) -> frozenset[str]:
    """Return the digests of files, for the `Consent` of a worker."""
    return frozenset(file.digest for file in files)


def _damage() -> str:
    """Return, in brackets, that the record is damaged; an empty text if it is in order."""
    try:
        _parse()
    except InputError as error:
        return f" (nothing counts as allowed: {str(error).rstrip('.')})"
    return ""


def _read() -> dict[str, str]:
    try:
        return _parse()
    except InputError:
        return {}


def _parse() -> dict[str, str]:
    """Return digest -> name of the files that are allowed.

    Raises:
        InputError: the file is damaged.
    """
    place = state_file()
    try:
        text = place.read_text(encoding="utf-8")
        content = json.loads(text)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{place} cannot be read, {one_line(error)}.") from None
    files = content.get("files") if isinstance(content, dict) else None
    if not isinstance(files, dict) or content.get("version") != _VERSION:
        raise InputError(f"{place} does not have what evomerge writes there.")
    return {str(digest): str(name) for digest, name in files.items()}
