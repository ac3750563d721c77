"""The hooks that MkDocs calls: pages out of `docs/` are added, links to them are led there."""

from __future__ import annotations

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from scripts.site.places import PAGES, ROOT, with_links_in_site
from scripts.site.shelf import shelf

SHELVES = ("configs", "examples")
COPIED = ("README.md", "CONTRIBUTING.md")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in `docs/`."""
    for folder in SHELVES:
        files.append(File.generated(config, PAGES[folder], content=shelf(folder)))
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
