"""The parameter space: which weights, densities, ... merge the parents (PS in arXiv 2403.13187).

Every block of the merged model is merged from the same block of all parents. Genes are the merge
method (where there are several) and its knobs, by place (embeddings, groups of blocks, head), by
component (attention, mlp, ..., the rest) and by parent.

A recipe's numbers are genes rounded to 6 decimals or finer, so that recipes stay readable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from evomerge.errors import ConfigError, RecipeError, did_you_mean
from evomerge.recipe import Layer, Recipe
from evomerge.space.baselines import uniform_recipe
from evomerge.space.knobs import MethodSpec, Setting, plan_knobs
from evomerge.space.panel import Component, Panel, ingredients_of, rounded
from evomerge.space.protocol import Gene, Genome

REST = "rest"
"""Name of the component that holds every tensor that no named component holds."""


class ParameterSpace:
    """Knobs of one or several merge methods, by depth, component and parent.

    Args:
        parents: references of the parents, in the order methods see them. Methods that use the
            base do not count it among their sources.
        base: reference of the base, or None.
        host: parent that gives config, tokenizer and whatever is not merged.
        stack: prefix of the block stack that is merged (`model.layers`).
        layers: number of its blocks.
        methods: the merge methods; several make the method a gene of every place.
        groups: number of contiguous groups of blocks with knobs of their own, `each` block, or
            `one` for all.
        components: components with knobs of their own; `rest` is one more.
        filters: component -> substrings of its tensors' names, for all that the host has, in the
            order in which they are tried.
        embeddings: whether embeddings and head have knobs of their own; if not, they share those
            of the first and the last blocks (of the rest, where there are components).
        smooth: interpolate linearly over depth, between as many anchors as there are groups,
            spread evenly from the first to the last block (see `Panel.blend`).
        knobs: knob -> a range to search or a fixed number; others have the method's own range, or
            stay at its default.
        dtype: dtype of the merged model.
        tokenizer: `base`, `union` or a parent.
        vocabulary: parents whose tokens are matched (see `Recipe`).
        seed: seed of random methods.

    Raises:
        ConfigError: the settings do not fit each other, the parents, or the methods; or nothing
            is left to search.
    """

    def __init__(
        self,
        *,
        parents: Sequence[str],
        base: str | None,
        host: str,
        stack: str,
        layers: int,
        methods: Sequence[MethodSpec],
        groups: int | Literal["each", "one"] = "one",
        components: Sequence[str] = (),
        filters: Mapping[str, Sequence[str]] | None = None,
        embeddings: bool = True,
        smooth: bool = False,
        knobs: Mapping[str, Setting] | None = None,
        dtype: str = "bfloat16",
        tokenizer: str = "base",
        vocabulary: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        self.parents, self.base = tuple(parents), base
        self._stack, self._blocks = stack, layers
        nothing = Layer("", ())
        self._frame = Recipe(
            host, {}, nothing, nothing, dtype, tokenizer, seed, vocabulary=tuple(vocabulary)
        )
        ingredients = ingredients_of(methods, self.parents, base)
        plan = plan_knobs(methods, knobs or {})
        self._inner = Panel(ingredients, plan, _components(components, filters or {}))
        self._outer = Panel(ingredients, plan, ())
        self._starts = _starts(groups, layers, smooth)
        self._embeddings, self._smooth = embeddings, smooth
        self.genes: tuple[Gene, ...] = tuple(
            replace(gene, name=f"{place}.{gene.name}")
            for place, panel in self._places()
            for gene in panel.genes
        )
        if not self.genes:
            raise ConfigError(
                "Every knob of space.knobs is fixed, so there is nothing to search; give one a "
                "range, for example weight: [0.0, 1.0], or name several methods."
            )

    def decode(self, genome: Genome) -> Recipe:
        """Return the recipe a genome stands for.

        Raises:
            RecipeError: the genome has another length than the space, or leaves its ranges.
        """
        if len(genome) != len(self.genes):
            raise RecipeError(
                f"The genome has {len(genome)} genes, but this space has {len(self.genes)}."
            )
        for gene, value in zip(self.genes, genome, strict=True):
            if not gene.low <= value <= gene.high:
                raise RecipeError(
                    f"Gene {gene.name} is {value!r}; it goes from {gene.low:g} to {gene.high:g}."
                )
        values = [rounded(gene, value) for gene, value in zip(self.genes, genome, strict=True)]
        chunks = []
        for _, panel in self._places():
            chunks.append(values[: len(panel.genes)])
            del values[: len(panel.genes)]
        outer = self._outer if self._embeddings else self._inner
        groups = chunks[1:-1] if self._embeddings else chunks
        return replace(
            self._frame,
            embeddings=outer.layer(chunks[0], None),
            layers={self._stack: self._decode_blocks(groups)},
            head=outer.layer(chunks[-1], None),
        )

    def baselines(self) -> dict[str, Recipe]:
        """Return each parent alone and the uniform merge, by parent reference and `uniform`.

        The uniform merge is the plain average of the weights of all parents but the base (a model
        soup; Wortsman et al. 2022, arXiv 2203.05482). These are recipes of `linear` whatever the
        method of this space, so that a parent's recipe builds exactly that parent.
        """

        def average(parents: Sequence[str]) -> Recipe:
            return uniform_recipe(parents, self._blocks, self._stack, self._frame)

        alone = {parent: average([parent]) for parent in self.parents}
        return alone | {"uniform": average(self._experts())}

    def baseline_genomes(self) -> dict[str, Genome]:
        """Return genomes of the baselines that this space can express, to be enqueued.

        A parent has weight 1 and the others 0, the uniform merge weights of 1/n, at density 1 and
        lambda 1. They decode to recipes of their own, which build the baselines up to rounding
        (with a sign consensus, as in `ties`, only near the uniform merge).
        """
        experts = self._experts()
        mixtures = {parent: {parent: 1.0} for parent in self.parents}
        mixtures["uniform"] = {parent: 1 / len(experts) for parent in experts}
        genomes = {}
        for label, shares in mixtures.items():
            chunks = [panel.mixture(shares) for _, panel in self._places()]
            if None not in chunks:
                genomes[label] = tuple(value for chunk in chunks for value in chunk or ())
        return genomes

    def _places(self) -> list[tuple[str, Panel]]:
        """Return the places with knobs of their own, in the order of the genome."""
        if self._smooth:
            names = [f"layers[{start}]" for start in self._starts]
        else:
            stops = [*self._starts[1:], self._blocks]
            names = [f"layers[{a}:{b}]" for a, b in zip(self._starts, stops, strict=True)]
        groups = [(name, self._inner) for name in names]
        if not self._embeddings:
            return groups
        return [("embeddings", self._outer), *groups, ("head", self._outer)]

    def _decode_blocks(self, groups: list[list[float]]) -> tuple[Layer, ...]:
        layers, group = [], 0
        for block in range(self._blocks):
            if group + 1 < len(groups) and block >= self._starts[group + 1]:
                group += 1
            values, share = groups[group], 0.0
            if self._smooth and block > self._starts[group]:
                start, stop = self._starts[group], self._starts[group + 1]
                share = (block - start) / (stop - start)
                values = self._inner.blend(values, groups[group + 1], share)
            layers.append(self._inner.layer(values, block))
        return tuple(layers)

    def _experts(self) -> list[str]:
        return [parent for parent in self.parents if parent != self.base] or list(self.parents)


def _components(
    wanted: Sequence[str], filters: Mapping[str, Sequence[str]]
) -> tuple[Component, ...]:
    for name in wanted:
        if name not in filters:
            raise ConfigError(
                f"space.components names {name!r}, which this model does not have; it has "
                f"{', '.join(filters) or 'none'}, and the rest is always one more."
                f"{did_you_mean(name, filters)}"
            )
        if list(wanted).count(name) > 1:
            raise ConfigError(f"space.components names {name!r} twice; name each once.")
    if not wanted:
        return ()
    named = [Component(name, tuple(filters[name])) for name in filters if name in wanted]
    return (*named, Component(REST, ("*",)))


def _starts(groups: int | Literal["each", "one"], layers: int, smooth: bool) -> list[int]:
    """Return the first block of every group, or the blocks that are anchors."""
    count = {"each": layers, "one": 1}.get(groups, groups) if isinstance(groups, str) else groups
    if not isinstance(count, int) or not 1 <= count <= layers:
        raise ConfigError(
            f"space.groups is {groups!r}, but the model has {layers} blocks; it must be a number "
            f"from 1 to {layers}, `each` or `one`."
        )
    if not smooth:
        return [group * layers // count for group in range(count)]
    if count < 2:
        raise ConfigError(
            f"space.smooth is true, but space.groups is {groups!r}; interpolation over depth needs "
            "2 groups or more, or set smooth to false."
        )
    steps = count - 1
    return [(2 * anchor * (layers - 1) + steps) // (2 * steps) for anchor in range(count)]
