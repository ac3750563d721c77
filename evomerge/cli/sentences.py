"""An error on a terminal: a line that says what is wrong, and one that says what to do.

An error is one sentence, so that it is one line in a pipe. What to do is behind its last semicolon:
`runs/mine is not a run folder; give the folder that was given to --run.`
"""

from __future__ import annotations

import re
import textwrap

_QUOTED = re.compile(r"`[^`]*`|(?<!\w)'[^']*'(?!\w)|\"[^\"]*\"|\([^()]*\)")
"""Where a semicolon does not divide a sentence: in what it quotes, and in brackets."""

_KEPT = "\N{NO-BREAK SPACE}"


def in_two(sentence: str) -> tuple[str, str]:
    """Return what is wrong, and what to do about it; this is empty if the sentence does not say."""
    masked = _QUOTED.sub(lambda found: "x" * len(found[0]), sentence)
    place, width = masked.rfind("; "), 2
    if place < 0:
        place, width = masked.rfind(" Did you mean "), 1
    if place < 0:
        return sentence, ""
    wrong, remedy = sentence[:place].rstrip("."), sentence[place + width :]
    return f"{wrong}.", _with_capital(remedy)


def _with_capital(text: str) -> str:
    """Return a text that begins with a capital, unless it begins with a name, such as a key."""
    first = text.partition(" ")[0].rstrip(",")
    return text[0].upper() + text[1:] if first.isalpha() else text


def for_terminal(sentence: str, width: int, name: str = "evomerge") -> str:
    """Return an error as lines for a terminal.

    Paths are never cut or divided, nor are commands, so that they can be copied.

    Args:
        sentence: the error.
        width: columns of the terminal.
        name: the program that the error comes from.
    """
    wrong, remedy = in_two(sentence)
    lines = [wrapped(wrong, width, f"{name}: ")]
    if remedy:
        lines.append(wrapped(remedy, width, " " * (len(name) + 2)))
    return "\n".join(lines)


def wrapped(text: str, width: int, begin: str = "") -> str:
    """Return a text in lines that break between words, and neither in a path nor in a command.

    Args:
        text: the text, without line breaks; commands are in backticks.
        width: columns of the terminal.
        begin: what the first line begins with; the others are indented as far.
    """
    kept = re.sub("`[^`]*`", lambda command: command[0].replace(" ", _KEPT), text)
    lines = textwrap.wrap(
        kept,
        width,
        initial_indent=begin,
        subsequent_indent=" " * len(begin),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines).replace(_KEPT, " ")
