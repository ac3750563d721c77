"""Turning pydantic's errors about a search file into sentences for a person."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from evomerge.config.fields import UnknownKeyError
from evomerge.errors import ConfigError, did_you_mean
from evomerge.parsing.values import shown

S = TypeVar("S", bound=BaseModel)

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
    "invalid_key": "text, so put quotes around it",
}
"""Beginning of the type of an error -> what is wanted."""


def parsed(section: type[S], data: Any, source: str) -> S:
    """Return a section from its content, or raise a ConfigError; `source` names the content."""
    try:
        return section.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{source}: {sentence(error, data)}") from None


def sentence(error: ValidationError, data: Any) -> str:
    """Return the first mistake, an unknown key before others, as a sentence about `data`."""
    problems = sorted(error.errors(), key=lambda item: _unknown_key(item) is None)
    first = problems[0]
    location = first["loc"]
    if (unknown := _unknown_key(first)) is not None:
        key, allowed, above = unknown.key, unknown.allowed, _at(location, data)[0]
        place = f" in `{_dotted(above)}`" if above else ""
        names, near = ", ".join(allowed) or "none, so remove it", did_you_mean(key, allowed)
        return f"unknown key `{key}`{place}; allowed are {names}.{near}"
    if first["type"] == "missing":
        key = _dotted((*_at(location[:-1], data)[0], location[-1]))
        return f"the key `{key}` is missing and has no default."
    is_tag = first["type"] == "union_tag_invalid"
    if is_tag:
        location = (*location, first["ctx"]["discriminator"].strip("'"))
    location, there = _at(location, data)
    key, size = _dotted(location), len(location)
    related = [item for item in problems if _at(item["loc"], data)[0][:size] == location]
    message = " or ".join(dict.fromkeys(map(expectation, related or [first])))
    message = message.replace(" or must be ", " or ")
    value = there if is_tag or len(related) > 1 else first["input"]
    near = ""
    if isinstance(value, str) and (is_tag or first["type"] == "literal_error"):
        near = did_you_mean(value, re.findall(r"'([^']*)'", message))
    if isinstance(value, dict) and not message.startswith("must"):
        return f"`{key}` {message}." if key else f"It {message}."  # its keys are what is wrong
    return f"`{key}` is {shown(value)}; it {message}.{near}"


def _unknown_key(item: Any) -> UnknownKeyError | None:
    cause = item.get("ctx", {}).get("error")
    return cause if isinstance(cause, UnknownKeyError) else None


def expectation(item: Any) -> str:
    """Return what is allowed according to one of pydantic's errors, such as `must be a list`."""
    kind, context = item["type"], item.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        return f"must be {context['expected']}"
    if kind == "union_tag_invalid":
        return f"must be {' or '.join(context['expected_tags'].rsplit(', ', 1))}"
    if kind in _BOUNDS:
        words, name = _BOUNDS[kind]
        return f"must be {words} {context[name]}"
    if kind == "string_pattern_mismatch":  # the one pattern of the schema
        return "must be a name of letters, digits, `_`, `.` and `-`"
    if kind == "too_short":
        return "must have at least one entry"
    if kind == "too_long":
        return f"must have at most {context['max_length']} entries"
    wanted = next((words for start, words in _TYPES.items() if kind.startswith(start)), None)
    return f"must be {wanted}" if wanted else str(item["msg"]).lower()


def _at(location: tuple[int | str, ...], data: Any) -> tuple[tuple[int | str, ...], Any]:
    """Return the location, without what pydantic adds for members of a union, and its value."""
    known: list[int | str] = []
    for part in location:
        with suppress(KeyError, IndexError, TypeError):
            data = data[part]
            known.append(part)
    return tuple(known) or location, data


def _dotted(location: tuple[int | str, ...]) -> str:
    """Return a location as text, such as `objectives[0].task`."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text
