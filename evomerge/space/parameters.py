"""The parameter space: the knobs (weights, densities, ...) of a merge (PS in arXiv 2403.13187).

Block i of the merged model is merged from block i of all parents. The genes are the merge method
(if there are several) and its knobs: for each place (embeddings, groups of blocks, head), each
component (attention, mlp, ..., the rest; or each tensor) and each parent. An encoder-decoder has
the groups of its encoder, then as many of its decoder. A vision tower, a projector and an audio
tower are the host's, or places of their own if the search file names them as components.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from evomerge.config.space import ParametersConfig
from evomerge.errors import ConfigError, did_you_mean
from evomerge.merging.methods.method import Method
from evomerge.recipe import MODALITIES, Layer, Recipe
from evomerge.space.baselines import baseline_recipes, experts_of, shares_of
from evomerge.space.blocks import BlockStack, StackGenes, check_groups
from evomerge.space.knobs import plan_knobs
from evomerge.space.layer_genes import LayerGenes, MethodInputs, method_inputs, rounded
from evomerge.space.pool import ParentPool
from evomerge.space.protocol import Gene, Genome

REST = "rest"
"""Name of the component of all tensors that belong to no named component."""


class ParameterSpace:
    """Knobs of one or several merge methods, by depth, component and parent.

    `frame` is a recipe of everything but the layers, embeddings and head. `stacks` are merged, the
    decoder's last; their tensors of no named component form one more, `rest`. `modalities`: each
    that the host has (`vision`, ...) -> the parents, base included, whose tensors fit the host's.

    Where `embeddings` is false, embeddings and head share the knobs of the first and of the last
    group (those of `rest`, if there are components). Where `smooth` is true, the genes belong to
    single blocks, called anchors: as many as `groups`, spread evenly from the first to the last.

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
    ) -> None:
        self.parents, self.base, self._frame = tuple(parents), base, frame
        self.max_depth = stacks[-1].layers
        most = config.most_parents
        inputs = method_inputs(methods, self.parents, base, pool=most is not None)
        self._pool = None if most is None else ParentPool(inputs, most)
        plan = plan_knobs(methods, config.knobs)
        known = modalities or {}
        _check_components(config, stacks, known)
        check_groups(config.groups, max(stack.layers for stack in stacks), config.smooth)
        per_stack = [_components(config.components, stack.filters) for stack in stacks]
        genes = [LayerGenes(inputs, plan, components) for components in per_stack]
        form = (config.groups, config.smooth)
        self._stacks = [StackGenes(*pair, *form) for pair in zip(stacks, genes, strict=True)]
        self._end_genes = LayerGenes(inputs, plan, {})  # of the embeddings, of the head
        # Each modality that is merged -> the parents that have it.
        named: list[str] = [name for name in MODALITIES if name in config.components]
        self._modalities = {name: known[name] for name in named}
        self._modality_genes = {
            name: LayerGenes(_having(inputs, name, having), plan, {})
            for name, having in self._modalities.items()
        }
        self._embeddings = config.embeddings
        self._shared = int(config.method_per == "model" and len(inputs) > 1)
        # Number of genes that all places share: the one that chooses the method, or none.
        self.genes: tuple[Gene, ...] = (
            *self._end_genes.genes[: self._shared],
            *(self._pool.genes if self._pool else ()),
            *(
                replace(gene, name=f"{place}.{gene.name}")
                for place, layer_genes in self._places()
                for gene in layer_genes.genes[self._shared :]
            ),
        )
        if not self.genes:
            raise ConfigError(
                "Every knob of space.knobs is fixed, so there is nothing to search; give one a "
                "range, for example weight: [0.0, 1.0], or name several methods."
            )

    def decode(self, genome: Genome) -> Recipe:
        """Return the recipe of a genome."""
        values = [rounded(gene, value) for gene, value in zip(self.genes, genome, strict=True)]
        shared = values[: self._shared]
        del values[: self._shared]
        members = None
        if self._pool:
            members = self._pool.members(values[: len(self._pool.genes)])
            del values[: len(self._pool.genes)]
        by_place = []
        for _, layer_genes in self._places():
            own = len(layer_genes.genes) - self._shared
            by_place.append(shared + values[:own])
            del values[:own]
        towers = reversed(self._modality_genes)
        modalities: Any = {name: self._modality(name, by_place.pop(), members) for name in towers}
        first, last = self._stacks[0].genes, self._stacks[-1].genes
        if self._embeddings:
            first = last = self._end_genes
        groups = by_place[1:-1] if self._embeddings else [*by_place]
        layers = {}
        for item in self._stacks:
            count = len(item.places)
            layers[item.stack.prefix] = item.blocks(groups[:count], members)
            del groups[:count]
        return replace(
            self._frame,
            embeddings=first.layer(by_place[0], None, members),
            layers=layers,
            head=last.layer(by_place[-1], None, members),
            **modalities,
        )

    def baselines(self) -> dict[str, Recipe]:
        """Return each parent alone, and the average of all but the base; see `baseline_recipes`."""
        experts = experts_of(self.parents, self.base)
        stacks = {item.stack.prefix: item.stack.layers for item in self._stacks}
        return baseline_recipes(self.parents, experts, stacks, self._frame, self._modalities)

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
            found = [
                layer_genes.mixtures(self._shares(place, shares))
                for place, layer_genes in self._places()
            ]
            members = self._pool.priorities(shares) if self._pool else []
            able = sorted(set(found[0]).intersection(*found[1:]))
            for method in order.sample(able, len(able)) if members is not None else ():
                shared = found[0][method][: self._shared]
                own = (value for values in found for value in values[method][self._shared :])
                genomes.setdefault(label, []).append((*shared, *(members or ()), *own))
        return genomes

    def _places(self) -> list[tuple[str, LayerGenes]]:
        """Return the places with knobs of their own, in the order of the genome."""
        places = [place for item in self._stacks for place in item.places]
        if self._embeddings:
            places = [("embeddings", self._end_genes), *places, ("head", self._end_genes)]
        return places + list(self._modality_genes.items())

    def _shares(self, place: str, shares: Mapping[str, float]) -> Mapping[str, float]:
        """Return the shares of the parents that have a place; without one the host's is taken."""
        if place not in self._modalities:
            return shares
        own = {name: share for name, share in shares.items() if name in self._modalities[place]}
        total = sum(own.values())
        return {name: share / total for name, share in own.items()} or {self._frame.host: 1.0}

    def _modality(
        self, name: str, values: list[float], members: Sequence[Sequence[str]] | None
    ) -> Layer | None:
        """Return how a modality is made; None, the host's, if a pool takes no parent with it."""
        having = self._modalities[name]
        able = members and [[item for item in of if item in having] for of in members]
        layer = self._modality_genes[name].layer(values, None, able)
        return layer if layer.sources else None


def _check_components(
    config: ParametersConfig, stacks: Sequence[BlockStack], modalities: Collection[str]
) -> None:
    """Check that a model has the components that a search file names."""
    wanted = config.components
    known = [*dict.fromkeys(name for stack in stacks for name in stack.filters), *modalities]
    hidden = [name for name in known if name.startswith("expert_")][1:-1]  # may be hundreds
    listed = ["..." if name in hidden[:1] else name for name in known if name not in hidden[1:]]
    for name in wanted if wanted != "each" else ():
        if name not in known:
            raise ConfigError(
                f"space.components names {name!r}, which this model does not have; it has "
                f"{', '.join(listed) or 'none'}, and `rest` is always added."
                f"{did_you_mean(name, known)}"
            )
        if list(wanted).count(name) > 1:
            raise ConfigError(f"space.components names {name!r} twice; name each once.")


def _components(
    wanted: Sequence[str] | Literal["each"], filters: Mapping[str, Sequence[str]]
) -> Mapping[str, Sequence[str]]:
    """Return the components of a stack that a search file names and the rest; none: no names."""
    named = {name: own for name, own in filters.items() if wanted == "each" or name in wanted}
    return {**named, REST: ("*",)} if named and wanted != "each" else named


def _having(
    inputs: Sequence[MethodInputs], modality: str, having: Collection[str]
) -> list[MethodInputs]:
    """Return what each method merges of a modality: of the parents those that have it."""
    found = []
    for item in inputs:
        sources = tuple(name for name in item.sources if name in having)
        models = [*sources, *(name for name in having if name == item.base)]
        fewest = max(item.method.parents[0], 1 if item.base else 2)
        if len(sources) < fewest or item.base not in (None, *models):
            needed = f"{fewest} parent{'s' if fewest > 1 else ''} or more"
            if item.base:
                needed = f"the base {item.base!r} and {needed} beside it"
            raise ConfigError(
                f"space.components names {modality!r}, which {item.method.name} needs in {needed}, "
                f"but only {' and '.join(having)} has it in the shapes of the host's; remove "
                f"{modality!r}, and merges keep the host's."
            )
        found.append(replace(item, sources=sources))
    return found
