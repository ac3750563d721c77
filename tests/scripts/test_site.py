"""The documentation site is complete, loads nothing from elsewhere, and says what the code says."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel
from typer.main import get_command

import evomerge
from evomerge.cli.commands import app
from evomerge.config.schema import SearchConfig
from evomerge.recipe import Recipe
from scripts.site.catalogue import rows
from scripts.site.places import ROOT
from scripts.site.recipe import recipe

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


@pytest.fixture(scope="module")
def reference(site):
    """Name of a page of the reference -> its content."""
    return {file.stem: Content(file) for file in (site / "reference").glob("*.html")}


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


def keys_of(model: type[BaseModel], above: str = ""):
    """Yield the dotted keys of a pydantic model, and of those that are its values."""
    for name, field in model.model_fields.items():
        yield f"{above}{name}"
        for inner in models_in(field.annotation):
            yield from keys_of(inner, f"{above}{name}.")


def models_in(annotation):
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for item in get_args(annotation) for model in models_in(item)]


def test_every_key_name_and_file_has_an_anchor(reference):
    keys = set(keys_of(SearchConfig))
    assert {"evaluation.search.documents", "objectives.task", "executor.ray.address"} <= keys
    names = {f"evomerge.{name}" for name in evomerge.__all__} - {"evomerge.__version__"}
    parts = {f"recipe.{name}" for name in Recipe.__dataclass_fields__}
    wanted = {
        "search-file": keys,
        "recipe": {*parts, "layer.scale", "source.layer"},
        "python": names,
        "choices": {row["name"] for row in rows("methods")},
    }
    for folder in ("configs", "examples"):
        files = {item.name for item in (ROOT / folder).iterdir()}
        wanted[folder] = files - {"README.md", "__pycache__", "adapters"}
    for page, anchors in wanted.items():
        assert anchors <= reference[page].ids, page
    for what in ("optimizers", "spaces", "parents"):
        for row in rows(what):
            assert f"<code>{row['name']}</code>" in reference["choices"].text


def test_the_example_of_a_recipe_is_one():
    example = re.search(r"```yaml\n(.*?)```", recipe(), re.DOTALL)[1]
    assert Recipe.from_yaml(example).parents == ("zoo:base", "zoo:maths", "zoo:language")


def test_every_command_is_described_with_its_options(reference):
    sections = re.split(r'(?=<h2 id=")', reference["commands"].text)
    for name, command in get_command(app).commands.items():
        section = next(item for item in sections if f'id="evomerge-{name}"' in item)
        for parameter in command.params:
            name = parameter.opts[0] if parameter.opts[0].startswith("-") else parameter.metavar
            assert f"<code>{name or ''}" in section
