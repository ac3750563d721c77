"""The reference is what the code says, and links lead somewhere, on GitHub as in the site."""

import posixpath
import re
from typing import get_args

import pytest
from pages import ROOT, TEXTS
from pydantic import BaseModel

import evomerge
from evomerge.config.schema import SearchConfig
from evomerge.recipe import Recipe
from scripts.site.__main__ import WRITTEN
from scripts.site.catalogue import rows


@pytest.mark.parametrize("page", WRITTEN)
def test_a_page_that_code_writes_is_up_to_date(page):
    assert TEXTS[page] == WRITTEN[page](), "run `python -m scripts.site`"


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


def test_every_key_and_name_is_in_the_reference():
    keys = set(keys_of(SearchConfig))
    assert {"evaluation.search.documents", "objectives.task", "executor.ray.address"} <= keys
    names = {f"evomerge.{name}" for name in evomerge.__all__} - {"evomerge.__version__"}
    wanted = {
        "search-file": keys,
        "recipe": {*Recipe.__dataclass_fields__, "scale", "layer"} - {"_"},
        "python": names,
        "choices": {
            row["name"] for what in ("methods", "optimizers", "spaces") for row in rows(what)
        },
    }
    for page, words in wanted.items():
        text = TEXTS[f"docs/reference/{page}.md"]
        assert [word for word in words if f"`{word}`" not in text] == []


def test_the_example_of_a_recipe_is_one():
    example = re.search(r"```yaml\n(.*?)```", TEXTS["docs/reference/recipe.md"], re.DOTALL)[1]
    assert Recipe.from_yaml(example).parents == ("zoo:base", "zoo:maths", "zoo:language")


def anchors_of(text: str) -> set[str]:
    """Return the anchors that GitHub and the site give to headings."""
    headings = re.findall(
        r"^#+ (.*?)#*$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M
    )
    plain = (re.sub(r"\]\([^)]*\)|[^\w\- ]", "", heading) for heading in headings)
    return {heading.strip().lower().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_to_files_and_headings(page):
    wrong = []
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", TEXTS[page], flags=re.M | re.S)
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        to = posixpath.normpath(posixpath.join(posixpath.dirname(page), path)) if path else page
        if not (ROOT / to).exists() or (anchor and anchor not in anchors_of(TEXTS[to])):
            wrong.append(link)
    assert wrong == []
