"""What of the merge methods a search varies: their knobs, and which parents they merge."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from evomerge.errors import ConfigError, did_you_mean
from evomerge.merging.methods import get_method
from evomerge.merging.methods.method import Knob, Method
from evomerge.space.protocol import Gene

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

    `fixed`: (name of the method, `source` or `merge`) -> name of the knob -> its value.
    """

    searched: tuple[SearchedKnob, ...]
    fixed: Mapping[tuple[str, str], Mapping[str, float]]


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
    fixed: dict[tuple[str, str], dict[str, float]] = {}
    for method in methods:
        for knob in method.knobs:
            setting = settings.get(knob.name, knob.search)
            if knob.low == knob.high and knob.name in varying:
                continue  # this method allows one value only; the setting is for another method
            if (why_not := _why_not(method, knob, setting)) is not None:
                wrong.setdefault(knob.name, f"space.knobs.{knob.name} is {why_not}.")
            elif isinstance(setting, (int, float)):
                fixed.setdefault((method.name, knob.per), {})[knob.name] = float(setting)
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


@dataclass(frozen=True)
class MethodInputs:
    """A merge method, and the parents that it merges in a search."""

    method: Method
    sources: tuple[str, ...]
    base: str | None


def method_inputs(
    methods: Sequence[Method], parents: Sequence[str], base: str | None, *, pool: bool = False
) -> list[MethodInputs]:
    """Return for each method of a search the parents that it merges, the base not among them.

    In a `pool` there may be more of them than a method takes. ConfigError: a method is named twice,
    needs a base that is not set, or does not take this number of parents.
    """
    inputs: list[MethodInputs] = []
    for method in methods:
        if any(item.method.name == method.name for item in inputs):
            raise ConfigError(f"space.method names {method.name!r} twice; name each method once.")
        if method.base == "required" and base is None:
            raise ConfigError(
                f"space.method is {method.name!r}, which measures task vectors from a base, but "
                "`base` is not set; name the model that the parents were fine-tuned from."
            )
        used = base if method.base != "none" else None
        sources = tuple(parent for parent in parents if parent != used)
        fewest, most = method.parents
        if len(sources) < fewest or (most is not None and len(sources) > most and not pool):
            allowed = f"{fewest} or more" if most is None else f"{fewest} to {most}"
            allowed = f"exactly {fewest}" if most == fewest else allowed
            raise ConfigError(
                f"space.method is {method.name!r}, which takes {allowed} parents, but `parents` "
                f"names {len(sources)}{' beside the base' if used else ''}: "
                f"{', '.join(sources) or 'none'}; change `parents`, or take another method."
            )
        inputs.append(MethodInputs(method, sources, used))
    return inputs


def inputs_of(
    modality: str, owners: Collection[str], inputs: Sequence[MethodInputs]
) -> list[MethodInputs]:
    """Return what each method merges of a modality: of the parents those that have it."""
    result = []
    for item in inputs:
        sources = tuple(name for name in item.sources if name in owners)
        fewest = max(item.method.parents[0], 1 if item.base else 2)
        if len(sources) < fewest or (item.base and item.base not in owners):
            needed = f"{fewest} parent{'s' if fewest > 1 else ''} or more"
            if item.base:
                needed = f"the base {item.base!r} and {needed} beside it"
            raise ConfigError(
                f"space.components names {modality!r}, which {item.method.name} needs in {needed}, "
                f"but only {' and '.join(owners)} has it in the shapes of the host's; remove "
                f"{modality!r}, and merges keep the host's."
            )
        result.append(replace(item, sources=sources))
    return result


THRESHOLD = 0.5
"""Smallest priority of a parent that is in."""


class ParentPool:
    """The genes that say which parents a candidate merges: `most` at most, besides the base.

    Every parent has a gene, its priority. Parents with a priority of 0.5 or more are in; if these
    are more than `most`, those with the highest priorities. If none is, the one with the highest
    priority is in. A real number is searched rather than a yes or no, since "at most k" needs an
    order of the parents, and CMA-ES can then follow small steps.
    """

    def __init__(self, inputs: Sequence[MethodInputs], most: int) -> None:
        self._inputs, self._most = tuple(inputs), most
        self._parents = tuple(dict.fromkeys(name for item in inputs for name in item.sources))
        for item in inputs:
            needed = item.method.parents[0]
            if not needed <= most <= len(self._parents):
                raise ConfigError(
                    f"space.most_parents is {most}, but {item.method.name} merges {needed} parents "
                    f"or more, and there are {len(self._parents)} (the base does not count); set "
                    f"it to a number from {needed} to {len(self._parents)}."
                )
        self.genes = tuple(
            Gene(f"{parent}.{PRIORITY}", "real", 0.0, 1.0, THRESHOLD, sigma=0.25)
            for parent in self._parents
        )

    def members(self, priorities: Sequence[float]) -> list[tuple[str, ...]]:
        """Return for each merge method the parents that it merges, in the order of its sources."""
        by_parent = dict(zip(self._parents, priorities, strict=True))
        return [self._members(item, by_parent) for item in self._inputs]

    def priorities(self, shares: Mapping[str, float]) -> list[float] | None:
        """Return priorities by which exactly these parents are in; None if there are none."""
        members = [parent for parent in self._parents if parent in shares]
        if len(members) > self._most or any(item.method.parents[0] > 1 for item in self._inputs):
            return None
        return [float(parent in members) for parent in self._parents]

    def _members(self, used: MethodInputs, priorities: Mapping[str, float]) -> tuple[str, ...]:
        fewest, limit = used.method.parents
        most = min(self._most, len(used.sources), limit or self._most)
        ranked = sorted(used.sources, key=lambda parent: -priorities[parent])  # stable
        above = sum(priorities[parent] >= THRESHOLD for parent in ranked)
        members = ranked[: max(fewest, min(most, above), 1)]
        return tuple(parent for parent in used.sources if parent in members)


def make_pool(inputs: Sequence[MethodInputs], most: int | None) -> ParentPool | None:
    """Return the pool of a space; None if each candidate merges all parents, or the only one."""
    is_one = len({name for item in inputs for name in item.sources}) == 1
    return None if most is None or (is_one and most == 1) else ParentPool(inputs, most)
