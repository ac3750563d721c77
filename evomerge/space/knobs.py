"""Which knobs of the merge methods a search varies, in which range, and which are fixed."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from evomerge.errors import ConfigError, did_you_mean
from evomerge.merging.methods import get_method
from evomerge.merging.methods.method import Knob, Method

PRIORITY = "priority"
"""Last part of the names of the genes that choose parents from a pool."""

Setting: TypeAlias = float | tuple[float, float]
"""What a search file says of a knob: a number fixes it, a range (low, high) is searched."""


@dataclass(frozen=True, kw_only=True)
class SearchedKnob:
    """A knob that a search varies, and the methods that share it because they search one range."""

    name: str
    per: Literal["source", "merge"]
    kind: Literal["real", "integer", "flag"]
    low: float
    high: float
    start: float
    methods: tuple[str, ...] = ()


@dataclass(frozen=True)
class KnobPlan:
    """Which knobs are searched and which are fixed. The others stay at their method's default.

    `fixed`: (name of the method, `source` or `merge`, name of the knob) -> its value.
    """

    searched: tuple[SearchedKnob, ...]
    fixed: Mapping[tuple[str, str, str], float]


def plan_knobs(methods: Sequence[Method], settings: Mapping[str, Setting]) -> KnobPlan:
    """Decide for every knob of the methods whether it is searched or fixed.

    ConfigError: settings suit no knob of the methods, or a knob without a default is not set.
    """
    names = {knob.name for method in methods for knob in method.knobs}
    wrong = {
        name: f"space.knobs.{name} is no knob of {' or '.join(item.name for item in methods)}; "
        f"allowed are {', '.join(sorted(names))}.{did_you_mean(name, names)}"
        for name in settings
        if name not in names
    }
    varying = {knob.name for method in methods for knob in method.knobs if knob.low < knob.high}
    users: dict[SearchedKnob, list[str]] = {}
    fixed: dict[tuple[str, str, str], float] = {}
    for method in methods:
        for knob in method.knobs:
            setting = settings.get(knob.name, knob.search)
            if knob.low == knob.high and knob.name in varying:
                continue  # this method allows one value only; the setting is for another method
            if (why_not := _why_not(method, knob, setting)) is not None:
                wrong.setdefault(knob.name, f"space.knobs.{knob.name} is {why_not}.")
            elif isinstance(setting, (int, float)):
                fixed[method.name, knob.per, knob.name] = float(setting)
            elif setting is not None:
                low, high = map(float, setting)
                inside = knob.start is not None and low <= knob.start <= high
                start = knob.start if inside and knob.start is not None else (low + high) / 2
                searched = SearchedKnob(
                    name=knob.name, per=knob.per, kind=knob.kind, low=low, high=high, start=start
                )
                users.setdefault(searched, []).append(method.name)
    if wrong:
        raise ConfigError(*wrong.values())
    shared = (replace(knob, methods=tuple(names)) for knob, names in users.items())
    return KnobPlan(tuple(shared), fixed)


def _why_not(method: Method, knob: Knob, setting: Setting | None) -> str | None:
    """Return why a method's knob cannot have a setting, as the end of a sentence; None: it can."""
    if setting is None:
        within = f"give a number or a range within {knob.low:g} to {knob.high:g}"
        why_not = f"missing, and {method.name} has no default; {within}"
        return why_not if knob.default is None else None
    values = setting if isinstance(setting, tuple) else (setting,)
    if (problem := next(filter(None, map(knob.problem, values)), None)) is not None:
        text = list(setting) if isinstance(setting, tuple) else setting
        fix = "; remove the key" if knob.low == knob.high else ""
        return f"{text}, but {knob.name} of {method.name} {problem}{fix}"
    if knob.kind == "flag" and isinstance(setting, tuple) and tuple(setting) != (0, 1):
        return (
            f"{list(setting)}, but it can only be off or on; give [0, 1] to search it, or true or "
            "false to fix it"
        )
    return None


def is_smooth(gene: str, methods: Collection[str]) -> bool:
    """Return whether weights merged by any of these methods have a gradient by a gene.

    Args:
        gene: name of a gene of a parameter space, a real number.

    Raises:
        RecipeError: there is no such method.
    """
    name = gene.rpartition(".")[2]
    knobs = [knob for method in methods for knob in get_method(method).knobs if knob.name == name]
    return name != PRIORITY and (not knobs or any(knob.is_smooth for knob in knobs))
