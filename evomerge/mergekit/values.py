"""Values of parameters in mergekit's files, and the number that each tensor gets from them.

A value is a number, a flag, a gradient (numbers that are spread evenly over the depth of a slice,
with linear interpolation) or a list of `{filter, value}` entries. A filter is a substring of a
tensor's name; the first entry that matches a tensor applies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from evomerge.errors import RecipeError
from evomerge.parsing.values import Values
from evomerge.recipe import Knob

EVERY = "*"

_VALUES = Values(RecipeError)


@dataclass(frozen=True)
class Rule:
    """A value, one number or several that are spread evenly over depth, and what it applies to."""

    pattern: str
    gradient: tuple[float, ...]

    def at(self, depth: float) -> float:
        """Return the number at a depth from 0 (first layer) to 1 (last layer)."""
        last = len(self.gradient) - 1
        place = depth * last
        below = min(int(place), max(last - 1, 0))
        if last == 0 or place == below:
            return self.gradient[below]
        low, high = self.gradient[below : below + 2]
        return low + (high - low) * (place - below)


Rules: TypeAlias = tuple[Rule, ...]


def read_parameters(parameters: Mapping[str, Any], where: str) -> dict[str, Rules]:
    """Return the parameters at one level of the file by name; RecipeError: one has another form."""
    return {name: _rules(value, f"{where}.{name}") for name, value in parameters.items()}


def _rules(data: Any, where: str) -> Rules:
    if isinstance(data, Mapping):
        return (_conditional(data, where),)
    if isinstance(data, list) and data and isinstance(data[0], Mapping):
        return tuple(_conditional(item, f"{where}[{i}]") for i, item in enumerate(data))
    return (Rule(EVERY, _gradient(data, where)),)


def _conditional(data: Any, where: str) -> Rule:
    if not isinstance(data, Mapping) or "value" not in data:
        raise _VALUES.wrong(data, where, "of the form {filter, value}")
    _VALUES.mapping(data, where, ("filter", "value"))
    pattern = data.get("filter")
    if not (pattern is None or isinstance(pattern, str)):
        raise _VALUES.wrong(pattern, f"{where}.filter", "part of a tensor's name")
    return Rule(pattern or EVERY, _gradient(data["value"], f"{where}.value"))


def _gradient(data: Any, where: str) -> tuple[float, ...]:
    items = data if isinstance(data, list) else [data]
    items = [_number(item) for item in items]
    if not items or not all(isinstance(item, (int, float)) for item in items):
        raise _VALUES.wrong(
            data,
            where,
            "a number, a flag, a list of numbers (a gradient over depth) or a list of "
            "{filter, value}",
        )
    return tuple(_VALUES.real(item, where) + 0.0 for item in items)


def _number(item: Any) -> Any:
    """Return a text that is a number as a number, which it is in mergekit."""
    try:
        return float(item) if isinstance(item, str) else item
    except ValueError:
        return item


def resolve(rules: Sequence[Rule], depth: float, names: Mapping[str, str], where: str) -> Knob:
    """Return a recipe's knob for the rules of a parameter, of which the first that matches applies.

    Args:
        depth: position of the tensors' block in its slice, from 0 (first) to 1 (last).
        names: name of a tensor in the merged model -> name that filters are compared with.

    Raises:
        RecipeError: a tensor matches no rule.
    """
    chosen: dict[str, Rule] = {}
    for name, filter_name in names.items():
        rule = next((r for r in rules if r.pattern == EVERY or r.pattern in filter_name), None)
        if rule is None:
            raise RecipeError(
                f"`{where}` has no value for tensor {filter_name!r}; add {{value: ...}} without a "
                "filter as the last entry."
            )
        chosen[name] = rule
    values = {rule.at(depth) for rule in chosen.values()}
    if len(values) <= 1:
        return values.pop() if values else rules[0].at(depth)
    pairs: list[tuple[str, float]] = []
    for rule in rules:
        matched = [name for name, picked in chosen.items() if picked is rule]
        # A recipe compares patterns with the merged names, and mergekit may use other names.
        same = all((rule.pattern in name) == (rule.pattern in names[name]) for name in names)
        if rule.pattern == EVERY or same:
            pairs += [(rule.pattern, rule.at(depth))] if matched else []
        else:
            pairs += [(name, rule.at(depth)) for name in matched]
    return tuple(pairs)
