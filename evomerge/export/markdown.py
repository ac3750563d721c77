"""Markdown of a model card: the border at which texts from files are escaped."""

from __future__ import annotations

import re
from collections.abc import Sequence

from evomerge.errors import printable, without_controls

_SIGNS = re.compile(r"[\\`*<>|~$]|\](?=[(\[:])|&(?=[#\w])|(?<![^\W_])_|_(?![^\W_])")
"""What has a meaning in a line of Markdown, such as `_`, but not between letters or digits."""

_LINKS = (("://", ":&#47;/"), ("www.", "www&#46;"))  # become links without any sign around them


def plain(text: str) -> str:
    """Return a text that Markdown shows as it is, on one line; also in a cell of a table."""
    shown = _SIGNS.sub(r"\\\g<0>", printable(text, len(text)))
    for begin, harmless in _LINKS:
        shown = shown.replace(begin, harmless)
    return shown


def code(text: str) -> str:
    """Return a text as code in a line of Markdown; not for a cell of a table."""
    shown = printable(text, len(text)).strip() or " "
    fence = "`" * (1 + _longest_run(shown))
    space = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{space}{shown}{space}{fence}"


def block(lines: Sequence[str], language: str = "") -> list[str]:
    """Return lines as a block of code; nothing in them ends the block."""
    fence = "`" * max(3, 1 + _longest_run("\n".join(lines)))
    return [f"{fence}{language}", *map(without_controls, lines), fence]


def row(cells: Sequence[str]) -> str:
    """Return a row of a table, of texts that Markdown shows as they are."""
    return f"| {' | '.join(map(plain, cells))} |"


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
