"""The page of the keys of a recipe, from the docstrings of its classes."""

from __future__ import annotations

import griffe

from scripts.site.places import ROOT

_START = """# Recipe

A recipe describes one merged model completely. A run writes the recipe of its best candidate into
`best.yaml`, and `evomerge merge` builds a checkpoint from such a file. Keys at their default are
not written. [Recipes](../recipes.md) explains how they are used.

```yaml
host: zoo:base
dtype: bfloat16
embeddings: {method: linear, sources: [{parent: zoo:maths}, {parent: zoo:language}]}
layers:
  model.layers:
    - {method: passthrough, sources: [{parent: zoo:maths, layer: 0}]}
    - {method: passthrough, sources: [{parent: zoo:language, layer: 1}], scale: 0.9}
head: {method: passthrough, sources: [{parent: zoo:maths}]}
```
"""

_SECTIONS = ("Recipe", "Layer", "Source", "Pin")

_WORDS = {
    "str": "text",
    "int": "whole number",
    "int | None": "whole number, or `null`",
    "float": "number",
    "Layer": "mapping: a [layer](#layer)",
    "Layer | None": "mapping: a [layer](#layer), or `null`",
    "Source | None": "mapping: a [source](#source), or `null`",
    "tuple[str, ...]": "list of text",
    "tuple[Source, ...]": "list of [sources](#source)",
    "Mapping[str, str]": "mapping from name to text",
    "Mapping[str, tuple[Layer, ...]]": "mapping from name to a list of [layers](#layer)",
    "Mapping[str, Recipe]": "mapping from name to a recipe",
    "Mapping[str, Pin]": "mapping from name to [pin](#pin)",
    "Mapping[str, KnobValue]": "mapping from name to number, "
    "or to pairs of tensor names and numbers",
}
"""Type of a field -> what it is in a file."""

_DEFAULTS = {
    "field(default_factory=dict)": "{}",
    "field(default=1.0, kw_only=True)": "1",
    "()": "[]",
    "None": "null",
    "''": '""',
    '""': '""',
}
"""Default of a field -> the same in a file."""


def recipe() -> str:
    """Return the page: each key of each mapping in a recipe."""
    file = ROOT / "evomerge/recipe.py"
    classes = griffe.visit(file.stem, filepath=file, code=file.read_text("utf-8")).classes
    parts = [_START]
    for kind in _SECTIONS:
        found = classes[kind]
        text, attributes = _parsed(found)
        parts.append(f"## {kind}\n\n{text}\n")
        for attribute in attributes:
            field = found[attribute.name]
            default = _DEFAULTS.get(str(field.value), str(field.value).strip("'\""))
            facts = "required" if field.value is None else f"default `{default}`"
            parts.append(
                f"- **`{attribute.name}`** ({_WORDS[str(field.annotation)]}; {facts}): "
                f"{attribute.description[0].upper()}{attribute.description[1:]}"
            )
        parts.append("")
    return "\n".join(parts)


def _parsed(found: griffe.Object | griffe.Alias) -> tuple[str, list[griffe.DocstringAttribute]]:
    """Return the text of a class's docstring, and what it says of each attribute."""
    assert found.docstring is not None
    text, attributes = "", []
    for section in found.docstring.parse("google"):
        if isinstance(section, griffe.DocstringSectionText):
            text = section.value
        elif isinstance(section, griffe.DocstringSectionAttributes):
            attributes = section.value
    return text, attributes
