"""The errors that evomerge raises, and the exit status of the command line for each.

EvomergeError            exit 1   one sentence for the user, shown without a traceback
├── InputError           exit 2   a mistake in the input; the sentence says how to correct it
│   ├── ConfigError               in a search file
│   ├── CheckpointError           in a parent, an adapter, a tokenizer, an exported model
│   ├── RecipeError               in a recipe or a mergekit file
│   └── RunFolderError            a run folder exists already, or is not one
│       └── RunInUseError         another process has begun it or is writing to it
├── DiskError            exit 1   a disk, a quota or a file is full, or a disk fails
├── CandidateError       -        one candidate could not be merged or scored; the search goes on
└── SearchError          exit 1   the search as a whole cannot go on
    └── DeviceError               an accelerator or engine no longer works in this process

Terminated is not an EvomergeError: it is a KeyboardInterrupt, raised on SIGTERM (exit 143).
"""

import difflib
import errno
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

LONGEST = 500
"""Largest number of characters of a message of another library (see `one_line`)."""

LONGEST_SENTENCE = 900
"""Largest number of characters of an error's sentence, with everything that it quotes."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Numbers of the system's errors for a disk, a quota or a file that is full."""

_CONTROLS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 without tab and newline, DEL, C1
    r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # those of bidirectional text
    r"\u2028\u2029\ud800-\udfff]"  # line and paragraph separators, unpaired surrogates
)


class EvomergeError(Exception):
    """Base class of all errors for the user; `str()` of it is one sentence, or a line for each.

    What the user can do is behind its last semicolon; a terminal gets it as a line of its own.
    Since it may quote a file, line breaks and what cannot be printed become spaces, and the middle
    of a sentence longer than `LONGEST_SENTENCE` characters is left out.
    """

    exit_code = 1

    def __init__(self, *sentences: str) -> None:
        super().__init__("\n".join(map(_short, sentences)))


def _short(sentence: str) -> str:
    if len(sentence) > LONGEST_SENTENCE:
        half = (LONGEST_SENTENCE - 3) // 2
        sentence = f"{sentence[:half]}...{sentence[-half:]}"
    return printable(sentence, LONGEST_SENTENCE)


class InputError(EvomergeError):
    """The input is wrong. The user can correct it; nothing was computed yet."""

    exit_code = 2


class ConfigError(InputError):
    """A search file has a wrong key or value."""


class CheckpointError(InputError):
    """A model folder, adapter or tokenizer is missing or damaged, or does not fit the others."""


class RecipeError(InputError):
    """A recipe or a mergekit file has a wrong key or value, or one that is not supported."""


class RunFolderError(InputError):
    """A run folder exists already, or is not one."""


class RunInUseError(RunFolderError):
    """Another process is writing to a run."""


class DiskError(EvomergeError):
    """Nothing can be written, since a disk, a quota or a file is full, or a disk fails."""


class CandidateError(EvomergeError):
    """One candidate could not be merged or scored; the search marks it as failed and goes on."""


class SearchError(EvomergeError):
    """The search as a whole cannot go on."""


class DeviceError(SearchError):
    """An accelerator or an inference engine no longer works in this process.

    A candidate may have caused it.
    """


class Terminated(KeyboardInterrupt):
    """The process received SIGTERM."""


def not_written(
    what: str, found: OSError, fix: str, error: type[InputError] = InputError
) -> EvomergeError:
    """Return the error for a file or folder that cannot be written.

    `what` is named with its option, if there is one; `fix`: what to do if the disk is not at fault.
    """
    reason = f"{what} cannot be written: {found.strerror or found}"
    if found.errno in (*NO_ROOM, errno.EIO):
        return DiskError(f"{reason}; free space on the disk or repair it, then try again.")
    return error(f"{reason}; {fix}.")


def one_line(error: object) -> str:
    """Return the first line of an error's message, or the name of its type if it has none.

    What cannot be printed is replaced, and a line of more than `LONGEST` characters is cut.
    """
    try:
        text = str(error)
    except KeyboardInterrupt:
        raise
    except BaseException:  # the __str__ of an error of other code may raise anything
        text = ""
    lines = text[: 20 * LONGEST].strip().splitlines()
    return printable(lines[0].strip() if lines else type(error).__name__, LONGEST)


@contextmanager
def blaming(
    kind: type[EvomergeError], sentence: str, *causes: type[BaseException]
) -> Iterator[None]:
    """Raise an error for the user in place of an error that other code raises within.

    Args:
        kind: what is raised. An EvomergeError or a KeyboardInterrupt passes as it is.
        sentence: what `kind` says. `{reason}` stands for the first line of the other error,
            `{error}` for its type and that line.
        causes: types of the errors that are replaced; none: every Exception.
    """
    replaced = causes or (Exception,)
    try:
        yield
    except (EvomergeError, KeyboardInterrupt):
        raise
    except replaced as cause:
        reason = one_line(cause).rstrip(".")
        named = sentence.replace("{error}", f"{type(cause).__name__}: {{reason}}")
        raise kind(named.replace("{reason}", reason)) from cause


def printable(text: str, longest: int = LONGEST) -> str:
    """Return a line cut to a length, with printable characters only."""
    short = text if len(text) <= longest else f"{text[:longest]}…"
    short = short.encode("utf-8", "replace").decode()
    return "".join(letter if letter.isprintable() else " " for letter in short)


def without_controls(text: str) -> str:
    """Return a text whose characters only show something; lines stay lines.

    Control characters other than tab and newline, bidirectional controls, and unpaired surrogates
    become the replacement character.
    """
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)


def escaped_controls(text: str) -> str:
    r"""Return a JSON text with `\u` escapes for the characters that `without_controls` replaces."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def listed(names: Iterable[str]) -> str:
    """Return names as a part of a sentence: `a, b and c`."""
    *rest, last = names
    return f"{', '.join(rest)} and {last}" if rest else last


def among(name: str, allowed: Iterable[str]) -> str:
    """Return the end of a sentence about a wrong name: those that are allowed, and the nearest."""
    names = list(allowed)
    return f"{', '.join(names) or 'none, so remove it'}.{did_you_mean(name, names)}"


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the nearest allowed name, or an empty string."""
    near = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""
