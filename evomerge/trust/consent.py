"""The consent of a user that code of search files runs, by the digests of its files.

It is kept outside of any run folder: in `trusted.json` in the state folder of the user, such as
`~/.local/state/evomerge`, or in the folder that the environment variable EVOMERGE_STATE names.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import cache_from_source
from pathlib import Path
from typing import NamedTuple

from evomerge.errors import ConfigError
from evomerge.run.atomic import replace_text

VARIABLE = "EVOMERGE_STATE"
"""Environment variable with the folder of the file, in place of the user's own."""

_MOST_NAMED = 6  # files that a sentence names

_allowed: set[str] = set()
"""Digests of the files that this process may run."""

log = logging.getLogger(__name__)


class CodeFile(NamedTuple):
    """A file with code of a search, and the SHA-256 digest of its bytes in hexadecimal.

    If the program has `imported` it before evomerge would, nobody needs to be asked.
    """

    path: Path
    digest: str
    imported: bool = False


@dataclass(frozen=True)
class Permissions:
    """What the user allows a search to do.

    Attributes:
        allow_pickle: accept parents with pickled weights.
        allow_code: accept tasks that run code which models write.
        ask: shows files with code of the search that the user has not allowed yet, and returns
            whether they may run; None: they may not.
        digests: digests of the only files that may run, whatever else the user has allowed. A
            worker gets them from the process that started it, maybe on another machine.
    """

    allow_pickle: bool = False
    allow_code: bool = False
    ask: Callable[[Sequence[Path]], bool] | None = field(default=None, compare=False, repr=False)
    digests: frozenset[str] | None = field(default=None, compare=False, repr=False)

    def and_also(self, allow_pickle: bool, allow_code: bool) -> Permissions:
        """Return these permissions and those that are given."""
        pickle, code = self.allow_pickle or allow_pickle, self.allow_code or allow_code
        return replace(self, allow_pickle=pickle, allow_code=code)

    def require(self, files: Sequence[CodeFile]) -> None:
        """Let this process run files, and record the consent of the user.

        Raises:
            ConfigError: the user has not allowed one of them, or it has changed since.
        """
        known, damage = _read() if self.digests is None else (self.digests, "")
        new = [file for file in files if file.digest not in known]
        asked = [file.path for file in new if not file.imported]
        if self.digests is not None and new:
            raise ConfigError(
                "This code is not what was allowed when the search was started or resumed: "
                f"{name_files([file.path for file in new])}; give every machine the same files, or "
                "read them and go on with `evomerge resume --trust-code`."
            )
        if asked and not (self.ask and self.ask(asked)):
            raise ConfigError(
                f"This search runs code that you have not allowed on this machine{damage}: "
                f"{name_files(asked)}; read it, then allow it with --trust-code."
            )
        record({file.digest: str(file.path) for file in new})
        allow(files)


NOTHING = Permissions()
"""Nothing but the code that the user has allowed before."""


def read_code(path: Path, *, imported: bool = False) -> CodeFile:
    """Return a file with the digest of its content.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return CodeFile(path.resolve(), hashlib.sha256(path.read_bytes()).hexdigest(), imported)
    except OSError as error:
        raise ConfigError(
            f"{path} holds code of this search, but cannot be read: {error.strerror}; make it "
            "readable."
        ) from None


def allow(files: Iterable[CodeFile]) -> None:
    """Let this process run these files, as long as they have these digests.

    Compiled files that Python would run in their place (`__pycache__`) are removed: they may come
    from somewhere else, and Python writes them again from what was allowed.

    Raises:
        ConfigError: a compiled file cannot be removed.
    """
    for file in files:
        _allowed.add(file.digest)
        if file.path.suffix == ".py" and not file.imported:
            compiled = Path(cache_from_source(str(file.path)))
            try:
                compiled.unlink(missing_ok=True)
            except OSError as error:
                raise ConfigError(
                    f"{compiled} would run in place of {file.path.name} and cannot be removed: "
                    f"{error.strerror}; remove it."
                ) from None


def allowed_digests(more: Iterable[str] = ()) -> list[str]:
    """Return the digests of what this process may run, after those of another are added."""
    _allowed.update(more)
    return sorted(_allowed)


def check_allowed(paths: Iterable[Path], where: str) -> None:
    """Check that files may run in this process, right before they do.

    Args:
        where: names what needs them, for the error.

    Raises:
        ConfigError: one cannot be read, was not allowed, or has changed.
    """
    for path in paths:
        if read_code(path).digest not in _allowed:
            raise ConfigError(
                f"{where} was not allowed ({path} was not allowed to run, or has changed since); "
                "read it, then allow it with --trust-code."
            )


def name_files(files: Sequence[Path]) -> str:
    """Return the names of the first few files for a sentence, relative to the working folder."""
    here = Path.cwd()
    names = [str(file.relative_to(here) if here in file.parents else file) for file in files]
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def is_recorded(digest: str) -> bool:
    """Return whether the user has allowed the file with this digest, on this machine."""
    return digest in _read()[0]


def record(files: Mapping[str, str]) -> None:
    """Record that the user allows files: digest -> name, which only people read."""
    known, _ = _read()
    if files.keys() <= known.keys():
        return
    content, place = {"files": {**known, **files}}, state_file()
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


def _read() -> tuple[dict[str, str], str]:
    """Return digest -> name of what is allowed; and in brackets what is wrong with the file."""
    place = state_file()
    try:
        content = json.loads(place.read_text(encoding="utf-8"))
        return {str(digest): str(name) for digest, name in content["files"].items()}, ""
    except FileNotFoundError:
        return {}, ""
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return {}, f" (nothing counts as allowed: {place} is damaged)"
