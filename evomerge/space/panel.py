"""The knobs of one place of a model: a short vector of genes that stands for one `Layer`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evomerge.errors import ConfigError
from evomerge.recipe import Knob, Layer, Source
from evomerge.space.knobs import KnobPlan, MethodSpec, SearchedKnob
from evomerge.space.protocol import Gene

_KINDS = {"real": "real", "integer": "integer", "flag": "binary"}


@dataclass(frozen=True)
class Component:
    """Tensors with knobs of their own: those whose name contains one of the patterns.

    Attributes:
        name: `attention`, `mlp`, ..., or `rest`.
        patterns: substrings of tensor names; `"*"` matches all.
    """

    name: str
    patterns: tuple[str, ...]


@dataclass(frozen=True)
class Ingredients:
    """What a merge method merges.

    Attributes:
        method: the method.
        sources: references of the parents, in order, without the base.
        base: reference of the base, or None where the method uses none.
    """

    method: MethodSpec
    sources: tuple[str, ...]
    base: str | None


def ingredients_of(
    methods: Sequence[MethodSpec], parents: Sequence[str], base: str | None
) -> list[Ingredients]:
    """Return what each method of a search merges; a base that it uses is not one of its sources.

    Raises:
        ConfigError: a method is named twice, needs a base that is not set, or takes another number
            of parents.
    """
    ingredients: list[Ingredients] = []
    for method in methods:
        if any(item.method.name == method.name for item in ingredients):
            raise ConfigError(f"space.method names {method.name!r} twice; name each method once.")
        if method.base == "required" and base is None:
            raise ConfigError(
                f"space.method is {method.name!r}, which measures task vectors from a base, but "
                "`base` is not set; name the model that the parents were fine-tuned from."
            )
        used = base if method.base != "none" else None
        sources = tuple(parent for parent in parents if parent != used)
        fewest, most = method.parents
        if len(sources) < fewest or (most is not None and len(sources) > most):
            allowed = f"{fewest} or more" if most is None else f"{fewest} to {most}"
            allowed = f"exactly {fewest}" if most == fewest else allowed
            raise ConfigError(
                f"space.method is {method.name!r}, which takes {allowed} parents, but `parents` "
                f"names {len(sources)}{' beside the base' if used else ''}: "
                f"{', '.join(sources) or 'none'}; change `parents`, or take another method."
            )
        ingredients.append(Ingredients(method, sources, used))
    return ingredients


@dataclass(frozen=True)
class _Slot:
    """What a gene stands for: a knob of a component, and of a parent unless it is the merge's."""

    component: int
    parent: str | None
    knob: SearchedKnob

    def is_of(self, used: Ingredients) -> bool:
        """Whether a method has this knob, for this parent."""
        parents = (None, *used.sources)
        return used.method.name in self.knob.methods and self.parent in parents


class Panel:
    """The genes of a place, and the two-way map between their values and a layer.

    Args:
        ingredients: one entry a merge method; several make the method the first gene.
        plan: which knobs are genes.
        components: components that are told apart, tried in order, the last one matching every
            tensor; empty where all tensors are alike.

    Attributes:
        genes: the genes, named without the place.
    """

    def __init__(
        self,
        ingredients: Sequence[Ingredients],
        plan: KnobPlan,
        components: Sequence[Component],
    ) -> None:
        self._ingredients = tuple(ingredients)
        self._fixed = plan.fixed
        self._components = tuple(components)
        self._names = tuple(item.method.name for item in ingredients)
        self._slots = self._all_slots(plan)
        choice = Gene("method", "choice", 0, len(self._names) - 1, 0, choices=self._names)
        self._choices = int(len(self._names) > 1)
        self.genes = ((choice,) if self._choices else ()) + tuple(map(self._gene, self._slots))

    def layer(self, values: Sequence[float], block: int | None) -> Layer:
        """Return what values stand for.

        Args:
            values: one a gene, canonical (see `rounded`).
            block: index of the block in every parent, or None for tensors outside of the blocks,
                which belong to the last component.
        """
        used = self._ingredients[int(values[0]) if self._choices else 0]
        name = used.method.name
        numbers: dict[tuple[str | None, str], list[float]] = {}
        for slot, value in zip(self._slots, values[self._choices :], strict=True):
            if slot.is_of(used):
                numbers.setdefault((slot.parent, slot.knob.name), []).append(value)

        def knobs(parent: str | None) -> dict[str, Knob]:
            per = "merge" if parent is None else "source"
            fixed = {key[2]: value for key, value in self._fixed.items() if key[:2] == (name, per)}
            searched = {
                knob: self._knob(items, block)
                for (owner, knob), items in numbers.items()
                if owner == parent
            }
            return {**fixed, **searched}

        return Layer(
            method=name,
            sources=tuple(Source(parent, block, knobs(parent)) for parent in used.sources),
            base=None if used.base is None else Source(used.base, block),
            knobs=knobs(None),
        )

    def blend(self, near: list[float], far: list[float], share: float) -> list[float]:
        """Return the values `share` of the way from one place to another, 0 <= share < 1.

        Real knobs are interpolated. Whole numbers and switches are those of the nearer place, and
        so is everything where the places use different methods.
        """
        nearer = near if share < 0.5 else far
        if share == 0 or (self._choices and near[0] != far[0]):
            return nearer
        return [
            rounded(gene, a + share * (b - a)) if gene.kind == "real" else near_value
            for gene, a, b, near_value in zip(self.genes, near, far, nearer, strict=True)
        ]

    def mixture(self, shares: Mapping[str, float]) -> list[float] | None:
        """Return values that mix the parents in these shares (all others 0), if there are any.

        By the common names of knobs: `weight` is the share, `density` and `lambda` are 1, and `t`
        is the share of the last source. The first method that can do it is taken.
        """
        for number, used in enumerate(self._ingredients):
            values = [rounded(gene, gene.start) for gene in self.genes]
            values[: self._choices] = [float(number)] * self._choices
            if self._mix(used, shares, values):
                return values
        return None

    def _mix(self, used: Ingredients, shares: Mapping[str, float], values: list[float]) -> bool:
        method = used.method
        if not set(shares) <= {*used.sources, used.base}:
            return False
        if not {"weight", "t"} & {knob.name for knob in method.knobs}:
            return False
        wishes = {"density": 1.0, "lambda": 1.0, "t": shares.get(used.sources[-1], 0.0)}
        searched = set()
        for index, slot in enumerate(self._slots, self._choices):
            knob = slot.knob
            if slot.is_of(used):
                searched.add(knob.name)
                wishes["weight"] = shares.get(slot.parent or "", 0.0)
                values[index] = rounded(self.genes[index], wishes.get(knob.name, values[index]))
                if abs(values[index] - wishes.get(knob.name, values[index])) > 1e-6:
                    return False
        for spec in method.knobs:
            if spec.name not in searched:
                at = self._fixed.get((method.name, spec.per, spec.name), spec.default)
                if spec.name == "weight" or wishes.get(spec.name, at) != at:
                    return False
        return True

    def _all_slots(self, plan: KnobPlan) -> tuple[_Slot, ...]:
        parents: list[str | None] = list(
            dict.fromkeys(parent for item in self._ingredients for parent in item.sources)
        )
        return tuple(
            _Slot(component, parent, knob)
            for component in range(max(1, len(self._components)))
            for parent in (*parents, None)
            for knob in plan.searched
            if (knob.per == "merge") == (parent is None)
            and any(_Slot(component, parent, knob).is_of(item) for item in self._ingredients)
        )

    def _gene(self, slot: _Slot) -> Gene:
        knob = slot.knob
        twins = [item.knob for item in self._slots if item.knob.name == knob.name]
        own = "" if all(twin == knob for twin in twins) else f"{'+'.join(knob.methods)}."
        component = f"{self._components[slot.component].name}." if self._components else ""
        parent = f"{slot.parent}." if slot.parent is not None else ""
        name = f"{component}{parent}{own}{knob.name}"
        kind = _KINDS[knob.kind]
        return Gene(name, kind, knob.low, knob.high, knob.start)  # type: ignore[arg-type]

    def _knob(self, numbers: list[float], block: int | None) -> Knob:
        if block is None or not self._components:
            return numbers[-1]
        return tuple(
            (pattern, number)
            for component, number in zip(self._components, numbers, strict=True)
            for pattern in component.patterns
        )


def rounded(gene: Gene, value: float) -> float:
    """Return the canonical value nearest to one, inside of the gene's range.

    Real genes have 6 decimals, more where the range is narrower than 1; rounding twice is
    rounding once. Discrete genes take the value at or below (a start may lie between two).
    """
    if gene.kind != "real":
        return float(min(gene.high, max(gene.low, math.floor(value))))
    decimals = 6 + max(0, math.ceil(-math.log10(gene.high - gene.low)))
    return float(min(gene.high, max(gene.low, round(value, decimals)))) + 0.0
