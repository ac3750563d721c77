"""Turning pydantic's errors about a search file into sentences for a person."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel, ValidationError

from evomerge.errors import did_you_mean
from evomerge.parsing.values import shown


def _keys_at(model: Any, location: tuple[int | str, ...]) -> list[str]:
    """Return the allowed keys of the section at a location; empty if there is no such section."""
    for part in location:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part) if hasattr(model, "model_fields") else None
        if field is None:
            return []
        model = field.annotation
        for inner in getattr(model, "__args__", ()):
            if hasattr(inner, "model_fields"):
                model = inner
    return list(model.model_fields) if hasattr(model, "model_fields") else []


def sentence(error: ValidationError, data: Any, schema: type[BaseModel]) -> str:
    """Return the first mistake as a sentence that names the key, its value and what is allowed.

    Unknown keys come before other mistakes.

    Args:
        error: the errors that pydantic has found.
        data: the data that was validated.
        schema: the model that it was validated with.
    """
    problems = sorted(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
    first = problems[0]
    location = first["loc"]
    kind = first["type"]
    if kind == "extra_forbidden":
        *above, key = location
        allowed = _keys_at(schema, tuple(above))
        place = f" in `{_dotted(tuple(above))}`" if above else ""
        return (
            f"unknown key `{key}`{place}; allowed are {', '.join(allowed)}."
            f"{did_you_mean(str(key), allowed)}"
        )
    location = _known_part(location, data)
    key = _dotted(location)
    if kind == "missing":
        return f"the key `{_dotted(first['loc'])}` is missing and has no default."
    related = [item for item in problems if item["loc"][: len(location)] == location]
    message = " or ".join(dict.fromkeys(_expectation(item) for item in related))
    message = message.replace(" or must be ", " or ")
    value = first["input"] if len(related) == 1 else _value_at(data, location)
    near = ""
    if isinstance(value, str) and kind == "literal_error":
        near = did_you_mean(value, re.findall(r"'([^']*)'", message))
    if isinstance(value, dict) and not message.startswith("must"):
        return f"`{key}` {message}." if key else f"It {message}."  # its keys are what is wrong
    return f"`{key}` is {shown(value)}; it {message}.{near}"


def _expectation(item: Any) -> str:
    """Return what is allowed according to one of pydantic's errors, such as `must be a list`."""
    kind, context = item["type"], item.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        return f"must be {context['expected']}"
    bounds = {"greater_than": "gt", "greater_than_equal": "ge", "less_than": "lt"}
    words = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
    name = {**bounds, "less_than_equal": "le"}.get(kind)
    if name:
        return f"must be {words[name]} {context[name]}"
    if kind == "too_short":
        return "must have at least one entry"
    if kind == "too_long":
        return f"must have at most {context['max_length']} entries"
    types = {
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
    for prefix, words_for in types.items():
        if kind.startswith(prefix):
            return f"must be {words_for}"
    return str(item["msg"]).lower()


def _known_part(location: tuple[int | str, ...], data: Any) -> tuple[int | str, ...]:
    """Remove the parts that pydantic adds to a location for the members of a union."""
    known: list[int | str] = []
    for part in location:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            break
        known.append(part)
    return tuple(known) or location


def _value_at(data: Any, location: tuple[int | str, ...]) -> Any:
    for part in location:
        data = data[part]
    return data


def _dotted(location: tuple[int | str, ...]) -> str:
    """Return a location as text, such as `objectives[0].task`."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text
