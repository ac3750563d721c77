"""The parameter space: the knobs (weights, densities, ...) of a merge (PS in arXiv 2403.13187).

Block i of the merged model is merged from block i of all parents. The genes are the merge method
(if there are several) and its knobs: for each place (embeddings, groups of blocks, head), each
component (attention, mlp, ..., the rest; or each tensor) and each parent. An encoder-decoder has
the groups of its encoder, then as many of its decoder. A vision tower, a projector and an audio
tower are the host's, or places of their own if the search file names them as components.
"""

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from evomerge.config.fields import KnobRange, Names
from evomerge.config.schema import SearchConfig
from evomerge.config.space import SpaceKind
from evomerge.errors import ConfigError, RecipeError
from evomerge.evaluation.objectives import needed_parts
from evomerge.merging.methods import get_method
from evomerge.merging.methods.method import Method
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.parts import has_read_head, shared_modalities
from evomerge.models.stacks import component_filters, tensor_filters
from evomerge.recipe import MODALITIES, Layer, Recipe
from evomerge.space import layer_genes as places
from evomerge.space.baselines import baseline_recipes, experts_of, frame_of, shares_of
from evomerge.space.knobs import PRIORITY, inputs_of, make_pool, method_inputs, plan_knobs
from evomerge.space.layer_genes import Between, BlockStack, LayerGenes, rounded
from evomerge.space.protocol import Gene, Genome, Space


class ParametersConfig(SpaceKind):
    """A parameter space."""

    is_path = False
    kind: Literal["parameters"] = "parameters"
    """parameters: weights of a merge"""
    method: Annotated[
        str | Annotated[list[str], Field(min_length=1)],
        Names("evomerge.merging.methods:method_names"),
    ] = "task_arithmetic"
    """merge method; of a list, the search chooses one"""
    embeddings: bool = True
    """own knobs for embeddings and head"""
    knobs: dict[str, KnobRange] = Field({})
    """a range is searched, a number is fixed"""
    method_per: Literal["model", "group"] = "model"
    """of several methods: one for the whole model, or one for each layer group"""
    groups: int | Literal["each", "one"] = "one"
    """layer groups with their own knobs: a number, `each` or `one`"""
    components: list[str] | Literal["each"] = Field([])
    """kinds of tensors with their own knobs, e.g. attention; `each`: every tensor; vision,
    projector and audio are the host's unless they are named"""
    most_parents: int | None = Field(None, ge=1)
    """a pool: a candidate merges at most so many of the parents; null: all of them; 1 with one
    parent: how far to go to it from the base"""
    smooth: bool = False
    """interpolate knobs over depth between groups"""

    @property
    def methods(self) -> tuple[str, ...]:
        """The merge methods, as a tuple even if there is only one."""
        return (self.method,) if isinstance(self.method, str) else tuple(self.method)

    @property
    def has_pool(self) -> bool:
        """Whether a candidate merges some of the parents only."""
        return self.most_parents is not None

    @property
    def reasons(self) -> Mapping[str, str]:
        """Last part of a gene's name -> what in the search file makes it vary, for people."""
        reasons = {PRIORITY: "space.most_parents; in from 0.5 on", "method": "space.method"}
        for method in map(get_method, self.methods):
            for knob in method.knobs:
                reasons[knob.name] = f"the method's range; space.knobs.{knob.name} fixes it"
        return reasons | {name: f"space.knobs.{name}" for name in self.knobs}

    def check_knobs(self, config: SearchConfig) -> Iterator[str]:
        """Yield a sentence if a search file has nothing to search."""
        plan = plan_knobs([*map(get_method, self.methods)], self.knobs)
        is_pool = self.has_pool and len(config.parents) > 1
        if not plan.searched and len(self.methods) == 1 and not is_pool:
            yield (
                "every knob of `space.knobs` is fixed, so there is nothing to search; give one a "
                "range, for example weight: [0.0, 1.0], or name several methods."
            )

    def check_sources(self, config: SearchConfig) -> Iterator[str]:
        """Yield a sentence if a search file has nothing to merge."""
        methods, most = [*map(get_method, self.methods)], self.most_parents
        if config.base in config.parents and all(method.base != "none" for method in methods):
            yield (
                f"`parents` names {config.base!r}, which is the `base`, so it has no task vector "
                "that could be merged; take it out of `parents`, or take a method that uses no "
                "base."
            )
            return
        inputs = method_inputs(methods, config.parents, config.base, pool=self.has_pool)
        make_pool(inputs, most)
        for used in inputs:
            takes_one = used.method.parents[1] == 1 or (used.base and most == 1)
            if len(used.sources) > 1 or takes_one:
                continue
            alone = ", or set `space.most_parents` to 1 to search how far to go to it from the base"
            yield (
                f"`parents` names one model, {used.sources[0]!r}, but {used.method.name} merges "
                f"several; name another one{alone if used.base else ''}."
            )

    def make(
        self, config: SearchConfig, checkpoints: Mapping[str, Checkpoint], genes: Sequence[str]
    ) -> Space:
        """Return the space; see `SpaceKind.make`."""
        host = checkpoints[config.host]
        places.check_depths(checkpoints, host)
        try:
            methods = list(map(get_method, self.methods))
        except RecipeError as error:
            raise ConfigError(f"`space.method`: {error}") from error
        is_read = not needed_parts(config) or has_read_head(host)
        filters = tensor_filters if self.components == "each" else component_filters
        return ParameterSpace(
            self,
            methods,
            parents=config.parents,
            base=config.base,
            frame=frame_of(config, host),
            stacks=places.stacks_of(host, filters),
            modalities=shared_modalities(checkpoints, host.reference),
            has_head=any(name.startswith("head.") for name in genes) if genes else is_read,
        )

    @field_validator("groups")
    @classmethod
    def _at_least_one_group(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("must be 1 or more, `each` or `one`")
        return value

    rules = (
        (
            lambda it: it.components == "each" and not it.embeddings,
            "has `components` 'each', so every tensor of a block has its own knobs, but "
            "`embeddings` false, so embeddings and head have none; set `embeddings` to true",
        ),
        (
            lambda it: it.smooth and it.groups in ("one", 1),
            "has `smooth` true, but `groups` is {0.groups!r}, and interpolation over depth needs 2 "
            "groups or more; change `groups`, or set `smooth` to false",
        ),
        (
            lambda it: len(set(it.components)) < len(it.components),
            "has `components` {0.components}, which names one twice; name each once",
        ),
    )


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
        places.check_components(config.components, stacks, modalities or {})
        places.check_groups(config.groups, max(stack.layers for stack in stacks))
        self._modalities: dict[str, Collection[str]] = {
            name: (modalities or {})[name] for name in MODALITIES if name in config.components
        }
        """Modality that is merged -> the parents that have it."""

        ends = LayerGenes(inputs, plan, {})
        self._places = [("embeddings", ends)] if config.embeddings else []
        """The parts of the model with knobs of their own, in the order of the genome."""
        self._stacks: dict[str, tuple[LayerGenes, list[Between]]] = {}
        for stack in stacks:
            genes = LayerGenes(inputs, plan, places.components_of(config.components, stack.filters))
            names, between = places.groups_of(
                stack, config.groups, config.smooth, len(self._places)
            )
            self._stacks[stack.prefix] = genes, between
            self._places += [(name, genes) for name in names]
        first, last = self._places[0][1], self._places[-1][1]
        has_head &= config.embeddings
        self._places += [("head", ends)] if has_head else []
        self._ends = (first, 0), (ends if has_head else last, len(self._places) - 1)
        """The genes of the embeddings and of the head, and the indices of their places."""
        for name, owners in self._modalities.items():
            self._places.append((name, LayerGenes(inputs_of(name, owners, inputs), plan, {})))

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
