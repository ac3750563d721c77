"""The page of the keys of a search file, from the schema that `evomerge schema` prints."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from evomerge.config.schema import SearchConfig

_START = """# Search file

Every key of a search file. `evomerge init` writes a file to start from, and `evomerge schema`
prints this page as a JSON Schema, for editors. On the command line,
`--set evaluation.search.documents=50` replaces one value. A key that is left out has its default;
an unknown key is an error.

A file can also have the key `stages`, a list of mappings with the same keys. Keys outside of
`stages` apply to every stage, and the keys of a stage replace them. In a stage, `stage:1` names the
winner of the first stage as a parent, base or host, as in [`hybrid.yaml`](configs.md#hybrid.yaml).

## Keys outside of sections { #top }
"""

Schema = Mapping[str, Any]


@dataclass(frozen=True)
class Key:
    """One key of a search file.

    Attributes:
        path: the key with the sections above it, such as `evaluation.search.documents`.
        values: what is allowed, in words.
        default: the default as YAML; None if the key is required, or a section.
        about: what it is, as Markdown.
        section: whether it is a mapping, or a list of mappings, with keys of their own.
    """

    path: str
    values: str
    default: str | None
    about: str
    section: bool


def keys() -> Iterator[Key]:
    """Yield every key, each section followed by its own keys."""
    schema = SearchConfig.model_json_schema()
    yield from _keys(schema, "", schema["$defs"])


def search_file() -> str:
    """Return the page, with an anchor for each key."""
    found = list(keys())
    top = [key for key in found if "." not in key.path and not key.section]
    return "\n".join([_START, *map(_entry, top), *(_entry(key) for key in found if key not in top)])


def _keys(schema: Schema, above: str, definitions: Schema) -> Iterator[Key]:
    """Yield the keys of a schema, those without keys of their own first."""
    fields = [(field, _section(field, definitions)) for field in schema["properties"].values()]
    named = list(zip(schema["properties"], fields, strict=True))
    for name, (field, inner) in sorted(named, key=lambda item: item[1][1] is not None):
        about = inner["description"] if inner else field["description"]
        required = name in schema.get("required", ())
        yield Key(
            path=f"{above}{name}",
            values=_values(field),
            default=None if required or "$ref" in field else _default(field),
            about=_sentence(about),
            section=inner is not None,
        )
        if inner is not None:
            yield from _keys(inner, f"{above}{name}.", definitions)


_VALUE = re.compile(r"(?:^|(?<=; ))\w+(?:, \w+)*(?=: )")
"""Values that a description explains: `auto` in `auto: as the optimizer recommends`."""


def _sentence(text: str) -> str:
    """Return a description as a sentence, with the values that it explains as code."""
    marked = _VALUE.sub(lambda found: re.sub(r"\w+", r"`\g<0>`", found[0]), text)
    return f"{marked[0].upper()}{marked[1:].rstrip('.')}."


def _section(field: Schema, definitions: Schema) -> Schema | None:
    """Return the schema of the section that a field holds, alone, in a list or by name."""
    for item in (field, *field.get("anyOf", ())):
        for place in (item, item.get("items", {})):
            if "$ref" in place:
                found: Schema = definitions[place["$ref"].rpartition("/")[2]]
                return found
    return None


def _default(field: Schema) -> str:
    if "default" in field:
        value = field["default"]
        return f"{value:.4g}" if isinstance(value, float) else json.dumps(value).strip('"')
    return "[]" if field.get("type") == "array" else "{}"


def _values(field: Schema) -> str:
    """Return what a field allows in words, such as `whole number from 2 to 10000, or auto`."""
    if "anyOf" in field:
        return ", or ".join(map(_values, field["anyOf"]))
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        *others, last = (f"`{item}`" for item in field["enum"])
        return f"{', '.join(others)} or {last}"
    if "$ref" in field:
        return "mapping"
    kind: str = field["type"]
    if kind == "array":
        return _list(field)
    if kind == "object":
        inner = field.get("additionalProperties")
        return f"mapping from name to {_values(inner)}" if isinstance(inner, dict) else "mapping"
    words = {"integer": "whole number", "boolean": "`true` or `false`", "string": "text"}
    return {**words, "null": "`null`"}.get(kind, kind) + _bounds(field)


def _list(field: Schema) -> str:
    if "prefixItems" in field:
        return f"[{', '.join(map(_values, field['prefixItems']))}]"
    inner = "mappings" if "$ref" in field["items"] else _values(field["items"])
    return f"list of {inner}{', at least one' if field.get('minItems') else ''}"


def _bounds(field: Schema) -> str:
    """Return the range of a number, such as ` from 2 to 10000`."""
    low, high = field.get("minimum"), field.get("maximum")
    if low is not None and high is not None:
        return f" from {_number(low)} to {_number(high)}"
    words = {
        "minimum": "at least",
        "exclusiveMinimum": "above",
        "maximum": "at most",
        "exclusiveMaximum": "below",
    }
    found = [f"{words[key]} {_number(field[key])}" for key in words if key in field]
    return f" {' and '.join(found)}" if found else ""


def _number(value: float) -> str:
    return f"{int(value) if value == int(value) else value:,}"


def _entry(key: Key) -> str:
    """Return the heading of a key, what it allows, and what it means."""
    level = "####" if not key.section else "###" if "." in key.path else "##"
    default = "required" if key.default is None else f"default `{key.default}`"
    facts = [] if key.values == "mapping" else [f"{key.values} · {default}\n{{ .facts }}\n"]
    return "\n".join([f"{level} `{key.path}` {{ #{key.path} }}\n", *facts, f"{key.about}\n"])
