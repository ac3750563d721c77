"""Commands, keys of the search file and files that a text names in backticks exist."""

import re
from itertools import pairwise
from typing import Any

import pytest
from page_commands import inline
from pages import PAGES, ROOT, blocks_of, inline_code_of

from evomerge.config.schema import SearchConfig
from scripts.site.search_file import is_section

SCHEMA = SearchConfig.model_json_schema()
SECTIONS = [name for name, field in SCHEMA["properties"].items() if is_section(field)]
KEY = rf"(?:{'|'.join(SECTIONS)})(?:\.\w+)+"
PLACEHOLDER = re.compile(r"\b[A-Z][A-Z_]*\b")


def _unions(field: Any) -> list[Any]:
    """Return a field, and the members of its unions."""
    members = (*field.get("anyOf", ()), *field.get("oneOf", ()))
    return [field, *(inner for item in members for inner in _unions(item))]


def check_key(path: str) -> None:
    """Check that the schema has a key; KEY may stand for any."""
    place: Any = SCHEMA
    for name in path.split(".") if not PLACEHOLDER.search(path) else ():
        options = _unions(place)
        options += [SCHEMA["$defs"][o["$ref"].rpartition("/")[2]] for o in options if "$ref" in o]
        found = [o["properties"][name] for o in options if name in o.get("properties", {})]
        found += [o["additionalProperties"] for o in options if "additionalProperties" in o]
        found += [o["items"] for o in options if name.isdigit() and "items" in o]
        assert found and found[0] is not False, f"the search file has no key {path}"
        place = found[0]


def check_inline(code: str, of_the_page: set[str]) -> None:
    """Check inline code that is a command, a key, a setting or a file, here or of the page."""
    if setting := re.match(rf"({KEY})(?:$|=|: )", code):
        check_key(setting[1])
    elif re.fullmatch(r"[\w*.-]+(/[\w*.-]+)+\.(py|yaml|md|sh|sbatch)", code):
        assert code in of_the_page or any(ROOT.rglob(code)), f"there is no file {code}"
    elif " " in code:
        words = inline(code)
        for option, value in pairwise(words):
            if option == "--set":
                check_key(value.split("=", 1)[0])


def wrong_in(page: str, text: str) -> list[str]:
    """Return a line for each inline code of a page that is wrong."""
    shown = {block.file for block in blocks_of(text)} | {"tasks/my_task.yaml"}
    made = tuple(f"{name}/" for name in re.findall(r"--(?:out|run) ([\w/.-]+)", text))
    wrong = []
    for item in inline_code_of(text):
        try:
            if not item.text.startswith(made):
                check_inline(item.text, shown)
        except Exception as error:
            wrong.append(f"{page}:{item.line}: `{item.text}`: {error}")
    return wrong


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_keys_and_files_in_a_text_exist(page: str) -> None:
    assert wrong_in(page, PAGES[page]) == []
