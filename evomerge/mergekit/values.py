"""Values of parameters in mergekit's files, and the number that each tensor gets from them.

A value is a number, a flag, a gradient (numbers that are spread evenly over the depth of a slice,
with linear interpolation) or a list of `{filter, value}` entries. A filter is a substring of a
tensor's name; the first entry that matches a tensor applies.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from evomerge.errors import RecipeError
from evomerge.merging.methods.method import Knob
from evomerge.parsing.values import Values
from evomerge.recipe import KnobValue

EVERY = "*"

_VALUES = Values(RecipeError)


@dataclass(frozen=True)
class Rule:
    """One number, or several that are spread evenly over depth, and the filter."""

    pattern: str
    gradient: tuple[float, ...]

    def at(self, depth: float) -> float:
        """Return the number at a depth from 0 (first layer) to 1 (last layer)."""
        positions = range(len(self.gradient))
        return float(np.interp(depth * positions[-1], positions, self.gradient))


Rules: TypeAlias = tuple[Rule, ...]


def read_rules(data: Any, where: str) -> Rules:
    """Return the rules of a parameter at one level; `RecipeError`: it has another form."""
    items = data if isinstance(data, list) and data else [data]
    if not isinstance(items[0], Mapping):
        return (Rule(EVERY, _gradient(data, where)),)
    rules = []
    for i, item in enumerate(items):
        address = where if items[0] is data else f"{where}[{i}]"
        if not isinstance(item, Mapping) or "value" not in item:
            raise _VALUES.wrong(item, address, "of the form {filter, value}")
        _VALUES.mapping(item, address, ("filter", "value"))
        pattern = item.get("filter")
        if not (pattern is None or isinstance(pattern, str)):
            raise _VALUES.wrong(pattern, f"{address}.filter", "part of a tensor's name")
        rules.append(Rule(pattern or EVERY, _gradient(item["value"], f"{address}.value")))
    return tuple(rules)


def _gradient(data: Any, where: str) -> tuple[float, ...]:
    kind = "a number, a flag, a list of numbers (over depth) or a list of {filter, value}"
    items = data if isinstance(data, list) else [data]
    try:  # as in mergekit, a text that is a number is one
        items = [float(item) if isinstance(item, str) else item for item in items]
    except ValueError:
        items = []
    if not items:
        raise _VALUES.wrong(data, where, kind)
    return tuple(_VALUES.real(item, where, kind) + 0.0 for item in items)


def resolve(
    rules: Sequence[Rule], depth: float, names: Mapping[str, str], parameter: Knob
) -> KnobValue:
    """Return a recipe's knob for the rules of a parameter, of which the first that matches applies.

    `depth` is the position of the tensors' block in its slice, from 0 (first) to 1 (last). `names`:
    name of a tensor in the merged model -> name that filters are compared with.
    RecipeError: a tensor matches no rule.
    """

    def value(rule: Rule) -> float:
        found = rule.at(depth)
        return float(found != 0) if parameter.kind == "flag" else found

    chosen: dict[str, Rule] = {}
    for name, filter_name in names.items():
        matching = (r for r in rules if r.pattern == EVERY or r.pattern in filter_name)
        if (rule := next(matching, None)) is None:
            raise RecipeError(
                f"`{parameter.name}` has no value for tensor {filter_name!r}; add {{value: ...}} "
                "without a filter as the last entry."
            )
        chosen[name] = rule
    if len({rule.at(depth) for rule in chosen.values()}) <= 1:
        return value(next(iter(chosen.values()), rules[0]))
    pairs: list[tuple[str, float]] = []
    for rule in rules:
        matched = [name for name, picked in chosen.items() if picked is rule]
        # A recipe compares patterns with the merged names, and mergekit may use other names.
        same = all((rule.pattern in name) == (rule.pattern in names[name]) for name in names)
        if rule.pattern == EVERY or same:
            matched = [rule.pattern] if matched else []
        pairs += [(name, value(rule)) for name in matched]
    return tuple(pairs)
