"""Pages of the documentation, as the parts that a test can check: blocks and inline code."""

import re
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from scripts.site.__main__ import WRITTEN

ROOT = Path(__file__).parents[3]

_FILES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "configs/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
TEXTS = {str(path.relative_to(ROOT)): path.read_text() for path in _FILES}
"""Path of a page in the repository -> its text."""

PAGES = {name: text for name, text in TEXTS.items() if name not in (*WRITTEN, "configs/README.md")}
"""Those that people write, and a test reads from top to bottom."""

FILE = re.compile(r"[\w./-]+\.(?:yaml|yml|py|csv|jsonl|json|toml)")

_MARKDOWN = MarkdownIt("commonmark").enable("table")


@dataclass(frozen=True)
class Block:
    """A fenced block: the line of its first fence, from 1, the word after it, the content.

    `file`: name of the file that the page says this is: the last one named in the paragraph before,
    if that ends with a colon, or the one that a comment in the first line names.
    """

    line: int
    language: str
    text: str
    file: str | None


@dataclass(frozen=True)
class Inline:
    """Code within a paragraph, a heading or a cell of a table, and its line, from 1."""

    line: int
    text: str


def blocks_of(text: str) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    found, tokens = [], _MARKDOWN.parse(text)
    for at, token in enumerate(tokens):
        assert token.type != "code_block", f"line {token.map[0] + 1}: put code between fences"
        if token.type == "fence":
            language, file = token.info.strip(), _named(token.content, tokens[at - 2 : at])
            found.append(Block(token.map[0] + 1, language, token.content, file))
    return found


def _named(text: str, before: list[Token]) -> str | None:
    """Return the name of the file that a block is; see `Block`."""
    if comment := re.match(rf"# ({FILE.pattern})(?!\S)", text.replace(",", " ", 1)):
        return comment[1]
    if not before or before[-1].type != "paragraph_close" or before[0].content[-1:] != ":":
        return None
    codes = [item.content for item in before[0].children if item.type == "code_inline"]
    return next((code for code in reversed(codes) if FILE.fullmatch(code)), None)


def inline_code_of(text: str) -> list[Inline]:
    """Return the inline code of a page, in order."""
    found = []
    for token in _MARKDOWN.parse(text):
        line = token.map[0] + 1 if token.map else 0
        for item in token.children or []:
            line += item.type in ("softbreak", "hardbreak")
            if item.type == "code_inline":
                found.append(Inline(line, item.content))
    return found
