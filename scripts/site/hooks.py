"""The hooks that MkDocs calls: generated pages are added, links out of `docs/` are led to pages."""

from __future__ import annotations

from collections.abc import Callable

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from scripts.site.catalogue import catalogue
from scripts.site.commands import commands
from scripts.site.places import PAGES, ROOT, with_links_in_site
from scripts.site.python import extending, python
from scripts.site.recipe import recipe
from scripts.site.search_file import search_file
from scripts.site.shelf import shelf

GENERATED: dict[str, Callable[[], str]] = {
    "reference/search-file.md": search_file,
    "reference/recipe.md": recipe,
    "reference/commands.md": commands,
    "reference/python.md": python,
    "reference/extending.md": extending,
    "reference/choices.md": catalogue,
    "reference/configs.md": lambda: shelf("configs"),
    "reference/examples.md": lambda: shelf("examples"),
}
"""Page -> what writes it."""

COPIED = ("CONTRIBUTING.md",)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in `docs/`."""
    for page, write in GENERATED.items():
        files.append(File.generated(config, page, content=write()))
    for name in COPIED:
        content = (ROOT / name).read_text(encoding="utf-8")
        content = with_links_in_site(content, name, PAGES[name])
        files.append(File.generated(config, PAGES[name], content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links out of `docs/` to pages."""
    if page.file.generated_by:
        return markdown
    return with_links_in_site(markdown, f"docs/{page.file.src_uri}", page.file.src_uri)
