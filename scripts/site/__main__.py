"""Write the pages of the reference that are made from the code: `python -m scripts.site`."""

from __future__ import annotations

from collections.abc import Callable

from scripts.site.catalogue import catalogue
from scripts.site.commands import commands
from scripts.site.places import ROOT
from scripts.site.python import extending, python
from scripts.site.recipe import recipe
from scripts.site.search_file import search_file

WRITTEN: dict[str, Callable[[], str]] = {
    "docs/reference/search-file.md": search_file,
    "docs/reference/recipe.md": recipe,
    "docs/reference/commands.md": commands,
    "docs/reference/python.md": python,
    "docs/reference/extending.md": extending,
    "docs/reference/choices.md": catalogue,
}
"""Page -> what makes it. They are committed, so that they can be read without a build."""

if __name__ == "__main__":
    for page, text in WRITTEN.items():
        (ROOT / page).write_text(text(), encoding="utf-8")
