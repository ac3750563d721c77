"""The documentation site is complete, and loads nothing from elsewhere."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from scripts.site.places import ROOT

pytestmark = pytest.mark.thorough

OTHER_HOST = re.compile(r"(?:https?:)?//")


class Content(HTMLParser):
    """The ids of a page, its links, and what a browser loads for it."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.ids, self.links, self.loaded = set(), set(), set()
        self.text = file.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids.add(found.get("id"))
        if tag == "a":
            self.links.add(found.get("href"))
        else:
            self.loaded |= {found[key] for key in ("src", "href", "data", "poster") if key in found}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built as `make docs` builds it; a warning is an error."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    build(load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(folder)))
    return folder


def test_every_page_is_in_the_navigation(site):
    links = Content(site / "index.html").links
    pages = {file.relative_to(site).as_posix() for file in site.rglob("*.html")} - {"404.html"}
    assert len(pages) > 30
    assert pages <= links


def test_nothing_is_loaded_from_another_host(site):
    loaded = {item for file in site.rglob("*.html") for item in Content(file).loaded}
    assert any(item.endswith(".css") for item in loaded)
    for file in site.rglob("*.css"):
        loaded |= set(re.findall(r"""(?:url\(|@import )["']?([^"')]+)""", file.read_text()))
    assert [item for item in loaded if OTHER_HOST.match(item)] == []


@pytest.mark.parametrize("folder", ["configs", "examples"])
def test_every_file_of_a_shelf_has_an_anchor(site, folder):
    files = {item.name for item in (ROOT / folder).iterdir()}
    found = Content(site / "reference" / f"{folder}.html")
    assert files - {"README.md", "__pycache__", "adapters"} <= found.ids
