"""Where a file of the repository is found in the site."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "configs": "reference/configs.md",
    "examples": "reference/examples.md",
}
"""File or folder at the top of the repository -> its page; what is in a folder is a section."""

_LINK = re.compile(r"(?<=\]\()(?P<path>[^)#:\s]+)(?P<anchor>#[^)\s]*)?(?=\))")


def page(path: str) -> str | None:
    """Return the page (and section) of a file in the repository, or None if it is on none.

    Args:
        path: path from the top of the repository, such as `docs/methods.md`.
    """
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path in PAGES:
        return PAGES[path]
    folder, _, name = path.partition("/")
    if folder not in PAGES or not (ROOT / path).exists():
        return None
    return PAGES[folder] if name == "README.md" else f"{PAGES[folder]}#{name}"


def with_links_in_site(markdown: str, source: str, target: str) -> str:
    """Return a text in which links to files of the repository lead to their pages.

    A link to a file that is on no page is left as it is, so that a strict build refuses it.

    Args:
        markdown: the text.
        source: where the text is in the repository, such as `docs/scaling.md`.
        target: the page that it becomes, such as `scaling.md`.
    """

    def replaced(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), match["path"]))
        found = page(path)
        if found is None or (path.startswith("docs/") and source.startswith("docs/")):
            return match[0]
        return posixpath.relpath(found, posixpath.dirname(target) or ".") + (match["anchor"] or "")

    return _LINK.sub(replaced, markdown)
