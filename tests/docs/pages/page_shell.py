"""The shell of the documentation: blocks and inline code become commands of `page_commands`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from page_commands import IN_A_TEXT, PROGRAMS, export

LOOP = re.compile(r"for (\w+) in ([^;\n]+); do\s(.*?)\bdone\b", re.DOTALL)
ASSIGNMENT = re.compile(r"[A-Z_]+=.*")

FILTERS = {"head", "tail", "less", "grep", "jq"}
"""Programs behind a `|` that only show a part of what was printed."""


def commands_of(text: str) -> Iterator[list[str]]:
    """Yield the commands of a block of shell, split into words; `>` and `|` are words too."""
    text = LOOP.sub(_unrolled, text.replace("\\\n", " "))
    for line in text.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;>")
        lexer.whitespace_split = True
        command: list[str] = []
        for word in lexer:
            if word in ("&&", ";"):
                yield command
                command = []
            else:
                command.append(word)
        if command:
            yield command


def _unrolled(loop: re.Match[str]) -> str:
    """Return the commands of a loop one after the other."""
    name, values, body = loop.groups()
    return "\n".join(body.replace(f"${name}", value) for value in values.split())


def execute(command: list[str]) -> tuple[str, str | None]:
    """Run or check one command of a block.

    Returns:
        What it prints, and the name of the file to which it was redirected, if any.
    """
    command = [_substituted(word) for word in command]
    while ASSIGNMENT.fullmatch(command[0]):
        export([command[0]])
        command = command[1:]
    words, target = command, None
    if "|" in words:
        at = words.index("|")
        assert words[at + 1] in FILTERS, f"unknown program after `|`: {words[at + 1]!r}"
        words = words[:at]
    if ">" in words:
        at = words.index(">")
        words, target = words[:at], words[at + 1]
    assert words[0] in PROGRAMS, (
        f"unknown program {words[0]!r}; say in tests/docs/pages/page_commands.py how it is checked"
    )
    printed = PROGRAMS[words[0]](words[1:])
    if target is not None:
        Path(target).write_text(printed)
    return printed, target


def _substituted(word: str) -> str:
    """Return what a command in `$(...)` prints, or a word that is no such command."""
    inner = re.fullmatch(r"\$\((.*)\)", word)
    return execute(next(commands_of(inner[1])))[0].strip() if inner else word


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
