"""Parameter values as mergekit writes them, and the one number a tensor gets from them.

A value is a number, a flag, a gradient (numbers spread evenly over the depth of a slice and
interpolated) or a list of `{filter, value}` entries tried in order, where a filter is a substring
of a tensor's name.
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
    """A value and the tensors it is for.

    Attributes:
        pattern: substring of the tensor's name, or `*` for every tensor.
        gradient: one number, or several spread evenly over depth.
    """

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


def read_parameters(data: Any, where: str) -> dict[str, Rules]:
    """Return the parameters of one level of the file by name.

    Raises:
        RecipeError: a value is none of the forms.
    """
    if data is None:
        return {}
    parameters = _VALUES.mapping(data, where)
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
    if not items or not all(isinstance(item, (int, float)) for item in items):
        raise _VALUES.wrong(
            data,
            where,
            "a number, a flag, a list of numbers (a gradient over depth) or a list of "
            "{filter, value}",
        )
    return tuple(_VALUES.real(item, where) + 0.0 for item in items)


def resolve(rules: Sequence[Rule], depth: float, names: Mapping[str, str], where: str) -> Knob:
    """Return the knob that gives every tensor its number.

    Args:
        rules: tried in order.
        depth: place of the tensors in their slice, 0 to 1.
        names: the tensors, by their name in the merged model; the value is the name that the
            filters are compared with.
        where: what an error calls the parameter.

    Returns:
        A plain number where all tensors have the same; else as few pairs as say it.

    Raises:
        RecipeError: no rule matches one of the tensors.
    """
    chosen: dict[str, Rule] = {}
    for name, shown in names.items():
        rule = next((r for r in rules if r.pattern == EVERY or r.pattern in shown), None)
        if rule is None:
            raise RecipeError(
                f"No value of `{where}` is for tensor {shown!r}; add {{value: ...}} without a "
                "filter as the last entry."
            )
        chosen[name] = rule
    values = {rule.at(depth) for rule in chosen.values()}
    if len(values) <= 1:
        return values.pop() if values else rules[0].at(depth)
    pairs: list[tuple[str, float]] = []
    for rule in rules:
        hit = [name for name, picked in chosen.items() if picked is rule]
        plain = all((rule.pattern in name) == (rule.pattern in names[name]) for name in names)
        if rule.pattern == EVERY or plain:
            pairs += [(rule.pattern, rule.at(depth))] if hit else []
        else:
            pairs += [(name, rule.at(depth)) for name in hit]
    return tuple(pairs)
