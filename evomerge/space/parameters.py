"""The parameter space: the knobs (weights, densities, ...) of a merge (PS in arXiv 2403.13187).

Block i of the merged model is merged from block i of all parents. The genes are the merge method
(if there are several) and its knobs: for each place (embeddings, groups of blocks, head), each
component (attention, mlp, ..., the rest; or each tensor) and each parent. An encoder-decoder has
the groups of its encoder, then as many of its decoder. A vision tower, a projector and an audio
tower are the host's, or places of their own if the search file names them as components.
"""

import random
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any, Literal, TypeAlias

from evomerge.config.space import ParametersConfig
from evomerge.errors import ConfigError, did_you_mean
from evomerge.merging.methods import get_method
from evomerge.merging.methods.method import Method
from evomerge.recipe import MODALITIES, Layer, Recipe
from evomerge.space.baselines import baseline_recipes, experts_of, shares_of
from evomerge.space.knobs import plan_knobs
from evomerge.space.layer_genes import LayerGenes, MethodInputs, method_inputs, rounded
from evomerge.space.pool import PRIORITY, make_pool
from evomerge.space.protocol import Gene, Genome

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


class ParameterSpace:
    """Knobs of one or several merge methods, by depth, component and parent.

    `frame` is a recipe of everything but the layers, embeddings and head. `stacks` are merged, the
    decoder's last; their tensors of no named component form one more, `rest`. `modalities`: each
    that the host has (`vision`, ...) -> the parents, base included, whose tensors fit the host's.
    `has_head`: whether there is a head that could have knobs of its own.

    A stack with fewer blocks than `groups` has a group for each. Where `embeddings` is false,
    embeddings and head share the knobs of the first and of the last group (those of `rest`, if
    there are components). Where `smooth` is true, the genes belong to single blocks, called
    anchors: as many as `groups`, spread evenly from the first to the last; knobs are interpolated.

    ConfigError: the settings do not fit each other, the parents, or the methods; or every knob is
    fixed, so that nothing is left to search.
    """

    def __init__(
        self,
        config: ParametersConfig,
        methods: Sequence[Method],
        *,
        parents: Sequence[str],
        base: str | None,
        frame: Recipe,
        stacks: Sequence[BlockStack],
        modalities: Mapping[str, Collection[str]] | None = None,
        has_head: bool = True,
    ) -> None:
        self.parents, self.base, self._frame = tuple(parents), base, frame
        self.max_depth = stacks[-1].layers
        inputs = method_inputs(methods, self.parents, base, pool=config.most_parents is not None)
        self._pool = make_pool(inputs, config.most_parents)
        plan = plan_knobs(methods, config.knobs)
        _check_components(config, stacks, modalities or {})
        _check_groups(config.groups, max(stack.layers for stack in stacks))
        self._modalities: dict[str, Collection[str]] = {
            name: (modalities or {})[name] for name in MODALITIES if name in config.components
        }
        """Modality that is merged -> the parents that have it."""

        ends = LayerGenes(inputs, plan, {})
        self._places = [("embeddings", ends)] if config.embeddings else []
        """The parts of the model with knobs of their own, in the order of the genome."""
        self._stacks: dict[str, tuple[LayerGenes, list[Between]]] = {}
        for stack in stacks:
            genes = LayerGenes(inputs, plan, _components(config.components, stack.filters))
            names, between = _groups_of(stack, config.groups, config.smooth, len(self._places))
            self._stacks[stack.prefix] = genes, between
            self._places += [(name, genes) for name in names]
        first, last = self._places[0][1], self._places[-1][1]
        has_head &= config.embeddings
        self._places += [("head", ends)] if has_head else []
        self._ends = (first, 0), (ends if has_head else last, len(self._places) - 1)
        """The genes of the embeddings and of the head, and the indices of their places."""
        for name, owners in self._modalities.items():
            self._places.append((name, LayerGenes(_inputs_of(name, owners, inputs), plan, {})))

        self._shared = int(config.method_per == "model" and len(inputs) > 1)
        """Number of genes that all places share: the one that chooses the method, or none."""
        pool_genes = self._pool.genes if self._pool else ()
        counts = [self._shared, len(pool_genes)]
        counts += [len(genes.genes) - self._shared for _, genes in self._places]
        parts = pairwise(accumulate(counts))
        self._of_pool, *self._of_places = (slice(*bounds) for bounds in parts)
        """The genes of the pool, and those of each place, in a genome."""
        self.genes: tuple[Gene, ...] = (
            *ends.genes[: self._shared],
            *pool_genes,
            *(
                replace(gene, name=f"{place}.{gene.name}")
                for place, genes in self._places
                for gene in genes.genes[self._shared :]
            ),
        )

    def decode(self, genome: Genome) -> Recipe:
        """Return the recipe of a genome."""
        values = [rounded(gene, value) for gene, value in zip(self.genes, genome, strict=True)]
        members = self._pool.members(values[self._of_pool]) if self._pool else None
        of_places = [values[: self._shared] + values[part] for part in self._of_places]
        embeddings, head = (
            genes.layer(of_places[index], None, members) for genes, index in self._ends
        )
        layers = {
            prefix: tuple(
                genes.layer(
                    genes.interpolate(of_places[index], of_places[following], share), block, members
                )
                for block, (index, following, share) in enumerate(between)
            )
            for prefix, (genes, between) in self._stacks.items()
        }
        modalities: Any = {
            name: self._modality(name, genes, part, members)
            for (name, genes), part in zip(self._places, of_places, strict=True)
            if name in self._modalities
        }
        return replace(self._frame, embeddings=embeddings, layers=layers, head=head, **modalities)

    def baselines(self) -> dict[str, Recipe]:
        """Return each parent alone, and the average of all but the base; see `baseline_recipes`."""
        experts = experts_of(self.parents, self.base)
        depths = {prefix: len(between) for prefix, (_, between) in self._stacks.items()}
        return baseline_recipes(self.parents, experts, depths, self._frame, self._modalities)

    def baseline_genomes(self) -> dict[str, list[Genome]]:
        """Return genomes of the baselines that this space can express, by label.

        Their recipes build the baselines up to rounding; with a sign consensus (`ties`) they come
        only near the uniform merge. There is one for each method that can express the baseline:
        with one of them only, a search would take a good baseline for a sign that this method is
        better. The seed draws their order, since an optimizer may prefer the first of equals.
        """
        genomes: dict[str, list[Genome]] = {}
        order = random.Random(self._frame.seed)
        for label, shares in shares_of(self.parents, self.base).items():
            priorities = self._pool.priorities(shares) if self._pool else []
            if priorities is None:
                continue
            mixtures = [
                genes.mixtures(self._shares(place, shares)) for place, genes in self._places
            ]
            able = sorted(set(mixtures[0]).intersection(*mixtures[1:]))
            for method in order.sample(able, len(able)):
                shared = mixtures[0][method][: self._shared]
                rest = (
                    value for of_place in mixtures for value in of_place[method][self._shared :]
                )
                genomes.setdefault(label, []).append((*shared, *priorities, *rest))
        return genomes

    def _shares(self, place: str, shares: Mapping[str, float]) -> Mapping[str, float]:
        """Return the shares of the parents that have a place; without one the host's is taken."""
        if place not in self._modalities:
            return shares
        owners = {name: share for name, share in shares.items() if name in self._modalities[place]}
        total = sum(owners.values())
        return {name: share / total for name, share in owners.items()} or {self._frame.host: 1.0}

    def _modality(
        self,
        name: str,
        genes: LayerGenes,
        values: list[float],
        members: Sequence[Sequence[str]] | None,
    ) -> Layer | None:
        """Return how a modality is made; None, the host's, if a pool takes no parent with it."""
        owners = self._modalities[name]
        able = members and [[item for item in of if item in owners] for of in members]
        layer = genes.layer(values, None, able)
        return layer if layer.sources else None


def _groups_of(
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


def _check_groups(groups: Groups, layers: int) -> None:
    """Raise a `ConfigError` unless the deepest stack can have so many groups."""
    if not isinstance(groups, str) and not 1 <= groups <= layers:
        raise ConfigError(
            f"space.groups is {groups!r}, but the model has {layers} blocks; it must be a number "
            f"from 1 to {layers}, `each` or `one`."
        )


def _check_components(
    config: ParametersConfig, stacks: Sequence[BlockStack], modalities: Collection[str]
) -> None:
    """Check that a model has the components that a search file names."""
    names = config.components
    known = [*dict.fromkeys(name for stack in stacks for name in stack.filters), *modalities]
    for name in names if names != "each" else ():
        if name not in known:
            raise ConfigError(
                f"space.components names {name!r}, which this model does not have; it has "
                f"{', '.join(known) or 'none'}, and `rest` is always added."
                f"{did_you_mean(name, known)}"
            )


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


def _components(
    names: Sequence[str] | Literal["each"], filters: Mapping[str, Sequence[str]]
) -> Mapping[str, Sequence[str]]:
    """Return the components of a stack that a search file names and the rest; none: no names."""
    if names == "each":
        return filters
    components = {name: parts for name, parts in filters.items() if name in names}
    return {**components, REST: ("*",)} if components else {}


def _inputs_of(
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
