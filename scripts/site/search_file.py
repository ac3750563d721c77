"""The page of the keys of a search file, from the schema that `evomerge schema` prints."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evomerge.config.schema import SearchConfig

_START = """# Search file

Every key of a search file. `evomerge init` writes a file to start from, and `evomerge schema`
prints this page as a JSON Schema, for editors. On the command line,
`--set evaluation.search.documents=50` replaces one value. A key that is left out has its default;
an unknown key is an error.

## Keys outside of sections
"""

Schema = Mapping[str, Any]


@dataclass(frozen=True)
class Key:
    """One key of a search file.

    Attributes:
        path: the key with the sections above it, such as `evaluation.search.documents`.
        values: what is allowed, in words.
        default: the default as YAML, as Markdown; None if the key is required, or a section.
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
    yield from _keys([schema], "", schema["$defs"])


def search_file() -> str:
    """Return the page: each section under a heading, each key as an item of a list."""
    found = list(keys())
    top = [key for key in found if "." not in key.path and not key.section]
    return "\n".join([_START, *map(_entry, top), *(_entry(key) for key in found if key not in top)])


def _keys(kinds: Sequence[Schema], above: str, definitions: Schema) -> Iterator[Key]:
    """Yield the keys of a section, those without keys of their own first.

    Args:
        kinds: the schema of the section; several where it has kinds with keys of their own.
    """
    names = dict.fromkeys(name for kind in kinds for name in kind["properties"])
    found = {name: [kind for kind in kinds if name in kind["properties"]] for name in names}
    inner = {name: _sections(of[0]["properties"][name], definitions) for name, of in found.items()}
    for name, of in sorted(found.items(), key=lambda item: bool(inner[item[0]])):
        fields = [kind["properties"][name] for kind in of]
        described = inner[name] if len(inner[name]) == 1 else fields
        abouts = dict.fromkeys(item["description"] for item in described)
        paths = [kind for kind in kinds if "variant" in kind["properties"]]
        only = ""
        if len(of) < len(kinds):
            others = [kind for kind in kinds if kind not in of]
            labels = "`dataflow`" if of == paths else _labels(of)
            only = f" Only of {labels}." if labels else f" Not of {_labels(others)}."
        yield Key(
            path=f"{above}{name}",
            values=_values({"anyOf": fields}),
            default=_defaults(name, of),
            about=_sentence("; ".join(abouts)) + only,
            section=bool(inner[name]),
        )
        if inner[name]:
            yield from _keys(inner[name], f"{above}{name}.", definitions)


def _labels(kinds: Iterable[Schema]) -> str:
    """Return the names of kinds of a section, such as `` `dataflow` ``; empty: any names."""
    tags = (
        next(fields[key] for key in ("variant", "kind", "name") if key in fields)
        for fields in (kind["properties"] for kind in kinds)
    )
    return ", ".join(f"`{tag['const']}`" for tag in tags if "const" in tag)


def _defaults(name: str, kinds: Sequence[Schema]) -> str | None:
    """Return the default of a key, with the kinds if they have different ones; None: required."""
    found: dict[str, list[Schema]] = {}
    for kind in kinds:
        field = kind["properties"][name]
        if name not in kind.get("required", ()) and not is_section(field):
            found.setdefault(f"`{_default(field)}`", []).append(kind)
    if len(found) < 2:
        return next(iter(found), None)
    return " or ".join(f"{default} ({_labels(of)})" for default, of in found.items())


_VALUE = re.compile(r"(?:^|(?<=; ))[a-z]\w*(?:, \w+)*(?=: )")
"""Values that a description explains: `auto` in `auto: as the optimizer recommends`."""


def _sentence(text: str) -> str:
    """Return a description as a sentence, with the values that it explains as code."""
    marked = _VALUE.sub(lambda found: re.sub(r"\w+", r"`\g<0>`", found[0]), text)
    return f"{marked[0].upper()}{marked[1:].rstrip('.')}."


def _sections(field: Schema, definitions: Schema) -> list[Schema]:
    """Return the schemas of the section that a field holds, alone, in a list or by name."""
    if "properties" in field:
        return [field]
    if "$ref" in field:
        return [definitions[field["$ref"].rpartition("/")[2]]]
    inside = (*field.get("anyOf", ()), *field.get("oneOf", ()), field.get("items"))
    return [found for item in inside if item for found in _sections(item, definitions)]


def is_section(field: Schema) -> bool:
    """Return whether a field of a schema holds a section, perhaps of one of several kinds."""
    options = field.get("anyOf", ())
    return bool({"$ref", "oneOf", "properties"} & field.keys()) or (
        bool(options) and all("properties" in option for option in options)
    )


def _default(field: Schema) -> str:
    if "default" in field:
        value = field["default"]
        return f"{value:.4g}" if isinstance(value, float) else json.dumps(value).strip('"')
    return "[]" if field.get("type") == "array" else "{}"


def _values(field: Schema) -> str:
    """Return what a field allows in words, such as `whole number from 2 to 10000, or auto`."""
    if options := field.get("anyOf"):
        if all("const" in option for option in options):
            return _values({"enum": list(dict.fromkeys(option["const"] for option in options))})
        return ", or ".join(dict.fromkeys(map(_values, options)))
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        *others, last = (f"`{item}`" for item in field["enum"])
        return f"{', '.join(others)} or {last}" if others else last
    if is_section(field):
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
    """Return a heading and what a section is, or a key, what it allows, and what it means."""
    if key.section:
        allowed = "" if key.values == "mapping" else f"{_sentence(_facts(key))} "
        return f"\n{'###' if '.' in key.path else '##'} `{key.path}`\n\n{allowed}{key.about}\n"
    return f"- **`{key.path}`** ({_facts(key)}): {key.about}"


def _facts(key: Key) -> str:
    return f"{key.values}; {'required' if key.default is None else f'default {key.default}'}"
