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

LONGEST = 500
"""Characters of a message that came from elsewhere."""

LONGEST_SENTENCE = 900
"""Characters of an error's sentence, what it quotes included."""


class EvomergeError(Exception):
    """Base of every error meant for a person; `str()` is one clear sentence.

    The sentence may quote what stands in a file: line breaks and characters that cannot be printed
    become spaces, and what is longer than `LONGEST_SENTENCE` characters is cut.
    """

    exit_code = 1

    def __init__(self, sentence: str) -> None:
        super().__init__(_printable(sentence, LONGEST_SENTENCE))


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
    return _printable(lines[0].strip() if lines else type(error).__name__, LONGEST)


def _printable(text: str, longest: int) -> str:
    """Return text fit for one line of a terminal or a file: cut, and nothing else than letters."""
    short = text if len(text) <= longest else f"{text[:longest]}…"
    short = short.encode("utf-8", "replace").decode()
    return "".join(letter if letter.isprintable() else " " for letter in short)


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the nearest allowed name, or an empty string."""
    near = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""
