"""Everything evomerge raises on purpose.

EvomergeError            exit 1   one sentence for a person, shown without a traceback
├── InputError           exit 2   the person can mend it: key, value, what is allowed, the fix
│   ├── ConfigError               a search file
│   ├── CheckpointError           a parent, an adapter, a tokenizer, an exported model
│   ├── RecipeError               a recipe or a mergekit file
│   └── RunFolderError            a run folder that exists, is none, or is busy
├── CandidateError       -        one candidate could not be built or scored; it becomes a row
└── SearchError          exit 1   the search as a whole cannot go on
    └── DeviceError               an accelerator no longer works in this process

Terminated is no EvomergeError: it is the KeyboardInterrupt that SIGTERM becomes (exit 143).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EvomergeError(Exception):
    """Base of every error meant for a person; `str()` is one clear sentence."""

    exit_code = 1


class InputError(EvomergeError):
    """Something the person gave is wrong and can be mended before any compute."""

    exit_code = 2


class ConfigError(InputError):
    """A search file says something that cannot be done."""


class CheckpointError(InputError):
    """A model folder, adapter or tokenizer is missing, damaged or does not fit."""


class RecipeError(InputError):
    """A recipe or mergekit file says something that cannot be honoured."""


class RunFolderError(InputError):
    """A run folder exists already, is not one, or is in use."""


class CandidateError(EvomergeError):
    """One candidate could not be merged or scored; the search marks it failed and goes on."""


class SearchError(EvomergeError):
    """The search as a whole cannot go on."""


class DeviceError(SearchError):
    """An accelerator no longer works in this process, perhaps for what a candidate did to it."""


class Terminated(KeyboardInterrupt):
    """The process was asked to end by SIGTERM."""


LONGEST = 500
"""Characters of a message that came from elsewhere."""


def one_line(error: object) -> str:
    """Return the first line of what an error says, fit for a journal, a table and a terminal.

    Whatever foreign code raised: control characters and halves of surrogate pairs are replaced,
    and what is longer than `LONGEST` characters is cut. An error that says nothing is named by its
    type.
    """
    try:
        text = str(error)
    except KeyboardInterrupt:
        raise
    except BaseException:  # a message that cannot even be made
        text = ""
    lines = text[: 20 * LONGEST].strip().splitlines()
    line = lines[0].strip() if lines else type(error).__name__
    line = line.encode("utf-8", "replace").decode("utf-8", "replace")
    line = "".join(letter if letter.isprintable() else " " for letter in line)
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}…"


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the nearest allowed name, or an empty string."""
    near = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""
