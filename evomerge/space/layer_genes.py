"""The genes of one place (embeddings, a group of blocks, head), and how they become a `Layer`.

The places of a block stack are groups of its blocks; components of a block have knobs of their own.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

from evomerge.errors import ConfigError, did_you_mean
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.correspondence import TensorNameMap
from evomerge.models.parts import merged_stacks, stack_names
from evomerge.models.stacks import Stack
from evomerge.recipe import KnobValue, Layer, Source
from evomerge.space.knobs import KnobPlan, MethodInputs, SearchedKnob
from evomerge.space.protocol import Gene


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
        self._inputs, self._fixed = tuple(inputs), plan.fixed
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
        used = self._inputs[number]
        numbers: dict[str | None, dict[str, list[float]]] = {}
        for parent, knob, index in self._searched[number]:
            numbers.setdefault(parent, {}).setdefault(knob, []).append(values[index])

        def knobs(parent: str | None) -> dict[str, KnobValue]:
            searched = {
                knob: self._knob(items, block) for knob, items in numbers.get(parent, {}).items()
            }
            per = "merge" if parent is None else "source"
            return {**self._fixed.get((used.method.name, per), {}), **searched}

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
                fixed = self._fixed.get((method.name, knob.per), {})
                value = fixed.get(knob.name, knob.default)
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

    def _knob(self, numbers: list[float], block: int | None) -> KnobValue:
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


REST = "rest"
"""Name of the component of all tensors that belong to no named component."""

Groups: TypeAlias = int | Literal["each", "one"]


@dataclass(frozen=True)
class BlockStack:
    """A block stack that is merged, with so many layers.

    `prefix` is before the index of a block in the names of its tensors (`model.layers`). `filters`:
    component -> substrings of these names, in the order in which they are tried. Genes call the
    stack by its `name`; an encoder-decoder has an `encoder` and a `decoder`.
    """

    prefix: str
    layers: int
    filters: Mapping[str, Sequence[str]]
    name: str = "layers"


Between: TypeAlias = tuple[int, int, float]
"""Where a block is: the indices of its place and of the next, and the share of the way to it."""


def stacks_of(
    host: Checkpoint, filters: Callable[[Stack], Mapping[str, Sequence[str]]]
) -> list[BlockStack]:
    """Return the block stacks of merges, the decoder's last."""
    return [
        BlockStack(stack.prefix, len(stack), filters(stack), name)
        for name, stack in zip(stack_names(host), merged_stacks(host).values(), strict=True)
    ]


def check_depths(checkpoints: Mapping[str, Checkpoint], host: Checkpoint) -> None:
    """Check that all parents have as many layers as the host, since these are merged in pairs."""
    names = stack_names(host)
    for name, checkpoint in checkpoints.items():
        theirs = TensorNameMap(host, checkpoint).stacks
        for called, (prefix, stack) in zip(names, merged_stacks(host).items(), strict=True):
            if (own := len(theirs.get(prefix, ()))) != len(stack):
                of_stack = "" if stack is host.decoder_stack else f" in its {called}"
                raise ConfigError(
                    f"Parent {name!r} has {own} layers{of_stack}, but the host "
                    f"{host.reference!r} has {len(stack)}, and `space.kind` 'parameters' merges "
                    "them in pairs; give parents with as many layers, or set the kind to "
                    "'dataflow', which searches a path through them."
                )


def groups_of(
    stack: BlockStack, groups: Groups, smooth: bool, index: int
) -> tuple[list[str], list[Between]]:
    """Return the names of a stack's places, which say which blocks they are, and each block's.

    `index`: that of the first of these places.
    """
    layers = stack.layers
    count = min(_count(groups, layers), layers)
    firsts = [group * layers // count for group in range(count)]
    if smooth and (steps := count - 1):
        firsts = [(2 * anchor * (layers - 1) + steps) // (2 * steps) for anchor in range(count)]
    bounds = [*pairwise([*firsts, layers])]
    names = [f"{stack.name}[{a}]" if smooth else f"{stack.name}[{a}:{b}]" for a, b in bounds]
    between = []
    for block in range(layers):
        group = bisect_right(firsts, block) - 1
        following = min(group + 1, count - 1)
        first, stop = bounds[group]
        share = (block - first) / (stop - first) if smooth and following > group else 0.0
        between.append((index + group, index + following, share))
    return names, between


def _count(groups: Groups, layers: int) -> int:
    return {"each": layers, "one": 1}[groups] if isinstance(groups, str) else groups


def check_groups(groups: Groups, layers: int) -> None:
    """Raise a `ConfigError` unless the deepest stack can have so many groups."""
    if isinstance(groups, int) and groups > layers:
        raise ConfigError(
            f"space.groups is {groups!r}, but the model has {layers} blocks; it must be a number "
            f"from 1 to {layers}, `each` or `one`."
        )


def check_components(
    names: Sequence[str] | Literal["each"],
    stacks: Sequence[BlockStack],
    modalities: Collection[str],
) -> None:
    """Check that a model has the components that a search file names."""
    known = [*dict.fromkeys(name for stack in stacks for name in stack.filters), *modalities]
    for name in names if names != "each" else ():
        if name not in known:
            raise ConfigError(
                f"space.components names {name!r}, which this model does not have; it has "
                f"{', '.join(known) or 'none'}, and `rest` is always added."
                f"{did_you_mean(name, known)}"
            )


def components_of(
    names: Sequence[str] | Literal["each"], filters: Mapping[str, Sequence[str]]
) -> Mapping[str, Sequence[str]]:
    """Return the components of a stack that a search file names and the rest; none: no names."""
    if names == "each":
        return filters
    components = {name: parts for name, parts in filters.items() if name in names}
    return {**components, REST: ("*",)} if components else {}
