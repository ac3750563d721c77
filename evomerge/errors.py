"""Everything evomerge raises on purpose.

EvomergeError            exit 1   one sentence for a person, shown without a traceback
├── InputError           exit 2   the person can mend it: key, value, what is allowed, the fix
│   ├── ConfigError               a search file
│   ├── CheckpointError           a parent, an adapter, a tokenizer, an exported model
│   ├── RecipeError               a recipe or a mergekit file
│   └── RunFolderError            a run folder that exists, is none, or is busy
├── CandidateError       -        one candidate could not be built or scored; it becomes a row
└── SearchError          exit 1   the search as a whole cannot go on
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


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the nearest allowed name, or an empty string."""
    near = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""
