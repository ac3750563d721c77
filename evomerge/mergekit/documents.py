"""Files with several documents, as mergekit-multi reads them: merges that use each other by name.

A document with a `name` is a merge that others name as a model. The one without a name, or else the
last one, is the model that the file makes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from evomerge.errors import RecipeError
from evomerge.mergekit.reading import read
from evomerge.parsing.values import Values, replaced, shown
from evomerge.parsing.yaml import yaml_mapping, yaml_text

_VALUES = Values(RecipeError)
_MARK = re.compile(r"^---(?=\s|$).*\n?", re.MULTILINE)
_CONTENT = re.compile(r"^[^#\s]", re.MULTILINE)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


def documents(text: str) -> list[str]:
    """Return the texts of the documents of a YAML file that have content."""
    return [part for part in _MARK.split(text) if _CONTENT.search(part)]


def separated(text: str, anchor: Callable[[str], str]) -> tuple[str, dict[str, str]]:
    """Return a file with several documents as files of its own, which name each other.

    `anchor` returns the reference of a model, from which the new files find it, too.

    Returns:
        the text of the document that makes the model; and name of a file -> its text for the
        others, which documents name as `merge:FILE`.

    Raises:
        RecipeError: a document is wrong, or names are missing, wrong or given twice.
    """
    found: dict[str | None, dict[str, Any]] = {}
    parts = [
        yaml_mapping(part, "A document", "a mergekit file", RecipeError) for part in documents(text)
    ]
    for data in parts:
        name = data.pop("name", None)
        if name is not None and not _NAME.fullmatch(str(name)):
            raise _VALUES.wrong(name, "name", "made of letters, digits, '-', '_' and '.'")
        if name in found:
            named = f"have the name {shown(name)}" if name else "have no `name`"
            raise RecipeError(f"Two documents {named}; give each but one a name of its own.")
        found[name] = data
    last = None if None in found else next(reversed(found))
    made = {name for name in found if name is not None and name != last}

    def moved(reference: str) -> str:
        if reference == last:
            raise RecipeError(
                f"A document merges {shown(reference)}, but this is the last document, and so the "
                "model that the file makes; move it before the documents that name it."
            )
        return f"merge:{reference}.yaml" if reference in made else anchor(reference)

    texts = {
        name: yaml_text(_renamed(data, moved), width=100, flow=None) for name, data in found.items()
    }
    return texts[last], {f"{name}.yaml": texts[name] for name in found if name in made}


def _renamed(data: dict[str, Any], moved: Callable[[str], str]) -> Any:
    """Return a document with other references of its models."""
    content = read(yaml_text(data, width=100))
    models = {name: moved(name) for name in content.parents}
    return replaced(data, lambda value: models.get(value, value))
