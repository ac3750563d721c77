"""The genes of one place (embeddings, a group of blocks, head), and how they become a `Layer`."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from evomerge.errors import ConfigError
from evomerge.merging.methods.method import Method
from evomerge.recipe import Knob, Layer, Source
from evomerge.space.knobs import KnobPlan, SearchedKnob
from evomerge.space.protocol import Gene


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


@dataclass(frozen=True)
class _KnobGene:
    """The knob whose value a gene holds."""

    component: str
    parent: str | None
    knob: SearchedKnob

    def is_of(self, used: MethodInputs) -> bool:
        """Whether the method has this knob and merges this parent."""
        parents = (None, *used.sources)
        return used.method.name in self.knob.methods and self.parent in parents


class LayerGenes:
    """The genes of one place, and the map from their values to a `Layer`.

    Args:
        inputs: one entry for each merge method. If there are several, the first gene chooses one.
        components: name -> substrings of the names of the tensors that have knobs of their own;
            `*` matches all. A tensor belongs to the first one that matches; the last one must match
            every tensor. Empty if all tensors share the knobs.
    """

    def __init__(
        self,
        inputs: Sequence[MethodInputs],
        plan: KnobPlan,
        components: Mapping[str, Sequence[str]],
    ) -> None:
        self._inputs = tuple(inputs)
        self._components = dict(components)
        names = tuple(item.method.name for item in inputs)
        last = len(names) - 1
        choice = [Gene("method", "choice", 0, last, 0, choices=names)] if last else []
        self._choices = len(choice)
        self._knob_genes = self._list_knob_genes(plan)
        self._searched = [
            [
                (item.parent, item.knob.name, index)
                for index, item in enumerate(self._knob_genes, self._choices)
                if item.is_of(used)
            ]
            for used in inputs
        ]
        """For each method the parents and names of its searched knobs, and indices of values."""
        self._fixed = [
            {
                per: {key[2]: value for key, value in plan.fixed.items() if key[:2] == (name, per)}
                for per in ("merge", "source")
            }
            for name in names
        ]
        self.genes = (*choice, *map(self._gene, self._knob_genes))

    def layer(
        self,
        values: Sequence[float],
        block: int | None,
        members: Sequence[Sequence[str]] | None = None,
    ) -> Layer:
        """Return the layer that the values of the genes describe.

        Args:
            values: one for each gene, canonical (see `rounded`).
            block: its index in every parent, or None for what is outside of the blocks, which
                belongs to the last component.
            members: for each merge method, the parents of a pool that are merged; None: all.
        """
        number = int(values[0]) if self._choices else 0
        used, fixed = self._inputs[number], self._fixed[number]
        numbers: dict[str | None, dict[str, list[float]]] = {}
        for parent, knob, index in self._searched[number]:
            numbers.setdefault(parent, {}).setdefault(knob, []).append(values[index])

        def knobs(parent: str | None) -> dict[str, Knob]:
            searched = {
                knob: self._knob(items, block) for knob, items in numbers.get(parent, {}).items()
            }
            return {**fixed["merge" if parent is None else "source"], **searched}

        return Layer(
            method=used.method.name,
            sources=tuple(
                Source(parent, block, knobs(parent))
                for parent in (used.sources if members is None else members[number])
            ),
            base=None if used.base is None else Source(used.base, block),
            knobs=knobs(None),
        )

    def interpolate(self, first: list[float], second: list[float], share: float) -> list[float]:
        """Return the values between those of two places.

        Real knobs are interpolated linearly. Integer knobs and flags take the values of the nearer
        place, and so do all if the two places use different methods.
        """
        nearer = first if share < 0.5 else second
        if share == 0 or (self._choices and first[0] != second[0]):
            return nearer
        return [
            rounded(gene, a + share * (b - a)) if gene.kind == "real" else nearer_value
            for gene, a, b, nearer_value in zip(self.genes, first, second, nearer, strict=True)
        ]

    def mixtures(self, shares: Mapping[str, float]) -> dict[int, list[float]]:
        """Return index of a method -> values that merge the parents in these shares.

        `weight` is the parent's share, `density` and `lambda` are 1, and `t` is the share of the
        last source. The knobs of the other methods are set likewise, so that nothing but the method
        is between two of these.
        """
        starts = [rounded(gene, gene.start) for gene in self.genes]
        numbers = range(len(self._inputs))
        able = [number for number in numbers if self._set_shares(number, shares, starts.copy())]
        mixtures: dict[int, list[float]] = {}
        for number in able:
            values = mixtures[number] = starts.copy()
            for other in [*able, number]:  # its own knobs last
                self._set_shares(other, shares, values)
            values[: self._choices] = [float(number)] * self._choices
        return mixtures

    def _set_shares(self, number: int, shares: Mapping[str, float], values: list[float]) -> bool:
        """Write the knobs of one method into `values`; return whether it can express the shares."""
        used = self._inputs[number]
        method = used.method
        has_knob = {"weight", "t"} & {knob.name for knob in method.knobs}
        if not (has_knob and set(shares) <= {*used.sources, used.base}):
            return False
        targets = {"density": 1.0, "lambda": 1.0, "t": shares.get(used.sources[-1], 0.0)}
        for parent, name, index in self._searched[number]:
            targets["weight"] = shares.get(parent or "", 0.0)
            target = targets.get(name, values[index])
            values[index] = rounded(self.genes[index], target)
            if abs(values[index] - target) > 1e-6:
                return False
        searched = {name for _, name, _ in self._searched[number]}
        for knob in method.knobs:
            if knob.name not in searched:
                value = self._fixed[number][knob.per].get(knob.name, knob.default)
                if knob.name == "weight" or targets.get(knob.name, value) != value:
                    return False
        return True

    def _list_knob_genes(self, plan: KnobPlan) -> tuple[_KnobGene, ...]:
        parents = dict.fromkeys(parent for item in self._inputs for parent in item.sources)
        return tuple(
            _KnobGene(component, parent, knob)
            for component in self._components or ("",)
            for parent in (*parents, None)
            for knob in plan.searched
            if (knob.per == "merge") == (parent is None)
            and any(_KnobGene(component, parent, knob).is_of(item) for item in self._inputs)
        )

    def _gene(self, knob_gene: _KnobGene) -> Gene:
        knob = knob_gene.knob
        same_name = [item.knob for item in self._knob_genes if item.knob.name == knob.name]
        # Methods that search one knob in different ranges have a gene each, named by the methods.
        methods = "" if all(k == knob for k in same_name) else f"{'+'.join(knob.methods)}."
        address = (knob_gene.component, knob_gene.parent)
        name = "".join(f"{part}." for part in address if part) + methods + knob.name
        kind = "binary" if knob.kind == "flag" else knob.kind
        return Gene(name, kind, knob.low, knob.high, knob.start)

    def _knob(self, numbers: list[float], block: int | None) -> Knob:
        if block is None or not self._components:
            return numbers[-1]
        return tuple(
            (pattern, number)
            for patterns, number in zip(self._components.values(), numbers, strict=True)
            for pattern in patterns
        )


def rounded(gene: Gene, value: float) -> float:
    """Return the canonical value for a value of a gene, within the gene's range.

    Values of real genes are rounded to 6 decimals, or to more if the range is narrower than 1, of
    discrete genes down (a gene may start between two values). A rounded value stays as it is.
    """
    if gene.kind != "real":
        return float(min(gene.high, max(gene.low, math.floor(value))))
    decimals = 6 + max(0, math.ceil(-math.log10(gene.high - gene.low)))
    return float(min(gene.high, max(gene.low, round(value, decimals)))) + 0.0


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
