"""A search file that a conversion writes, and what it tells the person who asked for it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from textwrap import TextWrapper
from typing import Any

import yaml

from evomerge.errors import RecipeError, did_you_mean, one_line
from evomerge.parsing.values import Values, shown

VALUES = Values(RecipeError)
"""Checks of the values in a config."""

_COMMENT = TextWrapper(
    width=100,
    initial_indent="# - ",
    subsequent_indent="#   ",
    break_long_words=False,
    break_on_hyphens=False,
)


@dataclass(frozen=True)
class Conversion:
    """A converted config.

    Attributes:
        notes: what the search file does not have or does differently, one sentence each.
    """

    text: str
    notes: tuple[str, ...]


@dataclass
class Draft:
    """A search file while a config is converted.

    Attributes:
        checks: what a person should look at in the search file; its comment lists them.
        notes: keys of the config that have no counterpart, and what could not be looked up.
    """

    tool: str
    search: dict[str, Any] = field(default_factory=dict)
    checks: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def known(self, data: Any, where: str, known: Collection[str]) -> Mapping[str, Any]:
        """Return a mapping of the config; each key that the tool ignores is a note."""
        found = VALUES.mapping(data, where)
        self.notes += [
            f"{shown(key)} in `{where}` is dropped, since {self.tool} ignores this key."
            f"{did_you_mean(key, known)}"
            for key in found
            if key not in known
        ]
        return found

    def add_objective(self, task: str, metric: str, weight: float = 1.0) -> None:
        """Add an objective; the weights of a metric that a config names twice are added."""
        objectives = self.search.setdefault("objectives", [])
        for item in objectives:
            if (item["task"], item["metric"]) == (task, metric):
                item["weight"] += weight
                return
        objectives.append({"task": task, "metric": metric, "weight": weight})

    def unknown(self, sentence: str) -> None:
        """Add a sentence about what could not be looked up, to the comment and to the notes."""
        self.checks.append(sentence)
        self.notes.append(sentence)

    def finish(self, source: str) -> Conversion:
        """Return the search file as text, with a comment about its source."""
        head = [f"# Converted from {one_line(source)} ({self.tool}). Check before you search:"]
        for check in self.checks:
            head += _COMMENT.wrap(one_line(check))
        body = yaml.safe_dump(self.search, sort_keys=False, default_flow_style=None, width=100)
        notes = dict.fromkeys(one_line(note) for note in self.notes)
        return Conversion("\n".join([*head, body]), tuple(notes))
