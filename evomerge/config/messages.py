"""Turning pydantic's errors about a search file into sentences for a person."""

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from copy import deepcopy
from typing import Any, TypeAlias, TypeVar

from pydantic import BaseModel, ValidationError

from evomerge.config.fields import BrokenRuleError, UnknownKeyError
from evomerge.errors import ConfigError, among, did_you_mean
from evomerge.parsing.values import shown

S = TypeVar("S", bound=BaseModel)

Place: TypeAlias = tuple[int | str, ...]
"""Where something is in a file: the keys of mappings and indices of lists that lead to it."""

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
    value, mistakes = read(section, data)
    if value is None or mistakes:
        raise ConfigError(*(f"{source}: {text}" for _, text in mistakes))
    return value


def read(
    section: type[S], data: Any, instead: Mapping[str, Any] | None = None
) -> tuple[S | None, list[tuple[Place, str]]]:
    """Return a section of what is right in `data`, and the place of each mistake with a sentence.

    What is wrong is left out, and the rest is read again, since one mistake hides others; where
    something was wrong already, a later one may follow from it, so nothing is said of it.
    `instead`: values of keys that have no default. None: too little is right.
    """
    mistakes: list[tuple[Place, str]] = []
    rest, left_out, told = data, set[Place](), set[str]()
    while True:
        try:
            return section.model_validate(rest, context=told), mistakes
        except ValidationError as error:
            before = len(left_out), len(told)
            wrong = left_out.union(place for place, _ in mistakes if place)
            for place, text, problem in _sentences(error, rest):
                # The rules of an item (an objective) may be broken only because another one is.
                is_item = bool(place) and isinstance(place[-1], int)
                others = wrong if is_item or place in left_out else wrong - {place}
                below = (item for item in others if item[: len(place)] == place)
                if not any(place or str(item[0]) in text for item in below):
                    mistakes.append((place, text))
                rule = problem.get("ctx", {}).get("error")
                if isinstance(rule, BrokenRuleError):
                    told.add(str(rule))
                elif place:
                    left_out.add(place)
            if (len(left_out), len(told)) == before:
                return None, mistakes
            rest = {**(instead or {}), **_without(data, left_out)}


def _without(data: Any, places: Collection[Place]) -> Any:
    """Return data without what is in some places; of an item of a list, without the list."""
    rest = deepcopy(data)
    for place in places:
        while isinstance(place[-1], int):
            place = place[:-1]
        target = rest
        with suppress(KeyError, IndexError, TypeError):
            for part in place[:-1]:
                target = target[part]
            del target[place[-1]]
    return rest


def sentence(error: ValidationError, data: Any) -> str:
    """Return the first mistake, an unknown key before others, as a sentence about `data`."""
    return next(_sentences(error, data))[1]


def _sentences(error: ValidationError, data: Any) -> Iterator[tuple[Place, str, Any]]:
    """Yield the place of each mistake, a sentence about it, and pydantic's own error."""
    problems: list[Any] = sorted(error.errors(), key=lambda item: _unknown_key(item) is None)
    places: list[Place] = []
    for problem in problems:
        place, text = _sentence(problem, problems, data)
        if not any(place[: len(it)] == it[: len(place)] for it in places):
            places.append(place)
            yield place, text, problem


def _sentence(first: Any, problems: Collection[Any], data: Any) -> tuple[Place, str]:
    location = first["loc"]
    if (unknown := _unknown_key(first)) is not None:
        key, allowed, above = unknown.key, unknown.allowed, _at(location, data)[0]
        place = f" in `{_dotted(above)}`" if above else ""
        return (*above, key), f"unknown key `{key}`{place}; allowed are {among(key, allowed)}"
    if first["type"] == "missing":
        location = (*_at(location[:-1], data)[0], location[-1])
        return location, f"the key `{_dotted(location)}` is missing and has no default."
    location, there = _at(location, data)
    key, size = _dotted(location), len(location)
    related = [item for item in problems if _at(item["loc"], data)[0][:size] == location]
    message = " or ".join(dict.fromkeys(map(expectation, related or [first])))
    message = message.replace(" or must be ", " or ")
    value = there if len(related) > 1 else first["input"]
    near = ""
    if isinstance(value, str) and first["type"] == "literal_error":
        near = did_you_mean(value, re.findall(r"'([^']*)'", message))
    if isinstance(value, dict) and not message.startswith("must"):  # its keys are what is wrong
        return location, f"`{key}` {message}." if key else f"It {message}."
    return location, f"`{key}` is {shown(value)}; it {message}.{near}"


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
