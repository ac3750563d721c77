"""The shell of the documentation: blocks and inline code become commands of `page_commands`."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator

from page_commands import IN_A_TEXT, PROGRAMS

LOOP = re.compile(r"for (\w+) in ([^;\n]+); do\s(.*?)\bdone\b", re.DOTALL)
ASSIGNMENT = re.compile(r"[A-Z_]+=.*")


def commands_of(text: str) -> Iterator[list[str]]:
    """Yield the commands of a block of shell, split into words."""
    text = LOOP.sub(_unrolled, text.replace("\\\n", " "))
    yield from filter(None, (shlex.split(line, comments=True) for line in text.splitlines()))


def _unrolled(loop: re.Match[str]) -> str:
    """Return the commands of a loop one after the other."""
    name, values, body = loop.groups()
    return "\n".join(body.replace(f"${name}", value) for value in values.split())


def execute(command: list[str]) -> str:
    """Run or check one command of a block; return what it prints."""
    words = [_substituted(word) for word in command]
    while ASSIGNMENT.fullmatch(words[0]):
        os.environ.update([words.pop(0).split("=", 1)])  # the test removes it after the page
    assert words[0] in PROGRAMS, (
        f"unknown program {words[0]!r}; say in tests/docs/pages/page_commands.py how it is checked"
    )
    return PROGRAMS[words[0]](words[1:])


def _substituted(word: str) -> str:
    """Return what a command in `$(...)` prints, or a word that is no such command."""
    inner = re.fullmatch(r"\$\((.*)\)", word)
    return execute(next(commands_of(inner[1]))).strip() if inner else word


def inline(text: str) -> list[str]:
    """Check a command in a text, where FILE or N may stand for anything: nothing runs.

    Programs that are not in the table are no programs, as far as a test can know.

    Returns:
        The words of the text.
    """
    try:
        words = shlex.split(text)
    except ValueError:  # an apostrophe: this is no command
        return []
    named = [word for word in words if not ASSIGNMENT.fullmatch(word)]
    if named and named[0] in IN_A_TEXT:
        IN_A_TEXT[named[0]](named[1:])
    return words
