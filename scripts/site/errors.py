"""The page of errors: written explanations by group, each followed by the messages it covers.

`docs/reference/errors.md` has the explanations. A group is a section with a comment that says which
messages belong to it, a line for each: a module of evomerge, or a pattern of modules, and, where a
module has messages of several groups, words of the messages::

    <!-- messages
    parsing/*.py
    config/yaml.py does not exist
    -->

A line with words takes precedence over one without, and a module over a pattern.
"""

from __future__ import annotations

import builtins
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from evomerge import errors
from scripts.site.messages import Message, messages

log = logging.getLogger("mkdocs.hooks")

_PYTHON = "an ordinary Python error"
"""What follows from a group that has only errors of Python's own classes."""

_CANDIDATE, _WARNING = "the candidate fails and the search goes on", "a warning"
_PART = "part of another message"
_ORDER = ("exit code 2", "exit code 1", _CANDIDATE, _WARNING, _PART)

_SECTION = re.compile(r"^(?=#{2,3} )", re.MULTILINE)
_COMMENT = re.compile(r"<!-- messages\n(?P<lines>.*?)-->\n", re.DOTALL)


@dataclass(frozen=True)
class Rule:
    """One line of a group's comment: the messages of some modules, or those with some words."""

    modules: str
    words: str

    @property
    def rank(self) -> tuple[bool, bool]:
        """How much the rule takes precedence over others."""
        return bool(self.words), "*" not in self.modules

    def covers(self, message: Message) -> bool:
        """Whether a message is one that the rule names."""
        return fnmatchcase(message.module, self.modules) and self.words in message.plain


@dataclass(frozen=True)
class Group:
    """A group of messages.

    Attributes:
        title: heading of its section.
        rules: which messages belong to it.
    """

    title: str
    rules: tuple[Rule, ...]

    def rank(self, message: Message) -> tuple[bool, bool] | None:
        """Return the rank of the strongest rule that covers a message, or None."""
        return max((rule.rank for rule in self.rules if rule.covers(message)), default=None)


def groups(markdown: str) -> list[Group]:
    """Return the groups of a page, in its order."""
    found = []
    for section in _SECTION.split(markdown):
        if comment := _COMMENT.search(section):
            lines = comment["lines"].splitlines()
            rules = tuple(Rule(*line.partition(" ")[::2]) for line in lines)
            found.append(Group(section.partition("\n")[0].lstrip("# "), rules))
    return found


def homes(message: Message, among: Sequence[Group]) -> list[Group]:
    """Return the groups that a message belongs to: one, if every rule is right."""
    ranked = [(rank, group) for group in among if (rank := group.rank(message)) is not None]
    best = max((rank for rank, _ in ranked), default=None)
    return [group for rank, group in ranked if rank == best]


def with_messages(markdown: str) -> str:
    """Return the page with the messages of each group behind its explanation.

    A message that belongs to no group is logged as a warning, so that a strict build fails.
    """
    known = groups(markdown)
    members: dict[str, list[Message]] = {group.title: [] for group in known}
    for message in messages():
        found = homes(message, known)
        if len(found) != 1:
            log.warning("%s:%d is in %d groups of errors", message.module, message.line, len(found))
        for group in found:
            members[group.title].append(message)
    sections = _SECTION.split(markdown)
    return "".join(_filled(section, members) for section in sections)


def _filled(section: str, members: dict[str, list[Message]]) -> str:
    if not _COMMENT.search(section):
        return section
    found = members[section.partition("\n")[0].lstrip("# ")]
    items = "\n".join(f"<li>{text}</li>" for text in dict.fromkeys(item.text for item in found))
    facts = " · ".join(sorted({*map(_consequence, found)} - {""}, key=_ORDER.index)) or _PYTHON
    explained = _COMMENT.sub(f"{facts}\n{{ .facts }}\n", section).rstrip()
    return f'{explained}\n\n<ul class="messages">\n{items}\n</ul>\n\n'


def _consequence(message: Message) -> str:
    """Return what happens after a message, such as `exit code 2`, or an empty text."""
    if message.kind == "warning":
        return _WARNING
    if hasattr(builtins, message.kind) and not message.module.startswith("config/"):
        return ""
    if message.module.startswith("testing/"):
        return ""
    if message.kind in ("CandidateError", "Failure"):
        return _CANDIDATE
    if message.kind == "error" or message.module.startswith("config/"):
        return "exit code 2"
    kind = getattr(errors, message.kind, None)
    return _PART if kind is None else f"exit code {kind.exit_code}"
