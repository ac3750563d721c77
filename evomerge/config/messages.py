"""Turning pydantic's errors about a search file into sentences for a person."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel, ValidationError

from evomerge.errors import did_you_mean
from evomerge.parsing.values import shown

_BOUNDS = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
}
"""Type of an error -> words for a bound, and its key in the error's context."""

_TYPES = {
    "finite_number": "a finite number",
    "tuple": "a list",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "dict": "a mapping of keys",
    "model": "a mapping of keys",
}
"""Beginning of the type of an error -> what is wanted."""


def sentence(error: ValidationError, data: Any, schema: type[BaseModel]) -> str:
    """Return the first mistake as a sentence that names the key, its value and what is allowed.

    Unknown keys come before other mistakes. `data` was validated with `schema`.
    """
    problems = sorted(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
    first = problems[0]
    location = first["loc"]
    if first["type"] == "extra_forbidden":
        *above, key = location
        allowed = _keys_at(schema, tuple(above))
        place = f" in `{_dotted(tuple(above))}`" if above else ""
        return (
            f"unknown key `{key}`{place}; allowed are {', '.join(allowed)}."
            f"{did_you_mean(str(key), allowed)}"
        )
    if first["type"] == "missing":
        return f"the key `{_dotted(location)}` is missing and has no default."
    location, there = _found(location, data)
    key = _dotted(location)
    related = [item for item in problems if item["loc"][: len(location)] == location]
    message = " or ".join(dict.fromkeys(_expectation(item) for item in related))
    message = message.replace(" or must be ", " or ")
    value = first["input"] if len(related) == 1 else there
    near = ""
    if isinstance(value, str) and first["type"] == "literal_error":
        near = did_you_mean(value, re.findall(r"'([^']*)'", message))
    if isinstance(value, dict) and not message.startswith("must"):
        return f"`{key}` {message}." if key else f"It {message}."  # its keys are what is wrong
    return f"`{key}` is {shown(value)}; it {message}.{near}"


def _keys_at(model: Any, location: tuple[int | str, ...]) -> list[str]:
    """Return the allowed keys of the section at a location; empty if there is no such section."""
    for part in location:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part) if hasattr(model, "model_fields") else None
        if field is None:
            return []
        inner = (item for item in getattr(field.annotation, "__args__", ()))
        sections = [item for item in inner if hasattr(item, "model_fields")]
        model = sections[-1] if sections else field.annotation
    names = getattr(model, "model_fields", ())
    return [name for name in names if name != "frozen"]  # only a run has it


def _expectation(item: Any) -> str:
    """Return what is allowed according to one of pydantic's errors, such as `must be a list`."""
    kind, context = item["type"], item.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        return f"must be {context['expected']}"
    if kind in _BOUNDS:
        words, name = _BOUNDS[kind]
        return f"must be {words} {context[name]}"
    if kind == "too_short":
        return "must have at least one entry"
    if kind == "too_long":
        return f"must have at most {context['max_length']} entries"
    wanted = next((words for start, words in _TYPES.items() if kind.startswith(start)), None)
    return f"must be {wanted}" if wanted else str(item["msg"]).lower()


def _found(location: tuple[int | str, ...], data: Any) -> tuple[tuple[int | str, ...], Any]:
    """Return the location without the parts that pydantic adds for members of a union; its value.

    If nothing of it is in the data, it stays as it is.
    """
    known: list[int | str] = []
    for part in location:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            break
        known.append(part)
    return tuple(known) or location, data


def _dotted(location: tuple[int | str, ...]) -> str:
    """Return a location as text, such as `objectives[0].task`."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text
