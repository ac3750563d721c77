"""The joint space: a path through the depths whose every block is a weighted merge.

The layout is the parents' common depth, repeated r times; a slot that is in is a block merged from
all parents' blocks of that depth, with knobs of its own. So the same depth may be passed twice,
merged differently. Keys of the search file: see evomerge.space.paths.frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

from evomerge.errors import ConfigError, RecipeError
from evomerge.recipe import Layer, Recipe, Source
from evomerge.space.baselines import uniform_recipe
from evomerge.space.paths.frame import baselines_of, genomes_of
from evomerge.space.paths.path import Hop
from evomerge.space.paths.slots import SlotSpace
from evomerge.space.protocol import Gene, Genome

KnobRange: TypeAlias = float | tuple[float, float, float]
"""A fixed number, or (low, high, start)."""


class JointSpace:
    """Which depths, in which order, and at each the knobs of a merge.

    Genome: the genes of the path (evomerge.space.paths.slots.SlotSpace), then the knobs of every
    slot, then those of embeddings and head where they are merged.

    Args:
        parents: parent -> number of its blocks; all the same.
        frame: recipe that gives everything else.
        method: merge method of every block.
        source_knobs: knobs that each parent has in each merge.
        merge_knobs: knobs that each merge has once.
        base: what task vectors are measured from, where the method uses one.
        outside: embeddings and head are merged with knobs of their own, else the frame's.
        stack: name of the block stack.
        repeats: how often the depths are laid out (r).
        indicators: `threshold` or `binary`.
        scales: range of the hops' scales, or a number that all have.
        fixed_ends: the path starts at the first depth and ends at the last.
        layers: fewest and most blocks of a path; None for no limit.

    Raises:
        ConfigError: the parents differ in depth, or an argument is out of its range.
    """

    def __init__(
        self,
        parents: Mapping[str, int],
        frame: Recipe,
        *,
        method: str,
        source_knobs: Mapping[str, KnobRange],
        merge_knobs: Mapping[str, KnobRange],
        base: str | None = None,
        outside: bool = True,
        stack: str = "model.layers",
        repeats: int = 1,
        indicators: Literal["threshold", "binary"] = "threshold",
        scales: tuple[float, float] | float = (0.5, 1.5),
        fixed_ends: bool = True,
        layers: tuple[int, int | None] = (1, None),
    ) -> None:
        if len(set(parents.values())) > 1:
            depths = ", ".join(f"{parent} {depth}" for parent, depth in parents.items())
            raise ConfigError(
                "space.kind is 'joint', which merges blocks of equal depth, but the parents' "
                f"depths differ ({depths}); use kind 'dataflow'."
            )
        self._frame, self._stack, self._parents = replace(frame, layers={}), stack, dict(parents)
        # The host's name stands for "the block of this depth" in the layout.
        self._way = SlotSpace(
            {frame.host: next(iter(parents.values()))},
            frame,
            stack=stack,
            repeats=repeats,
            indicators=indicators,
            scales=scales,
            fixed_ends=fixed_ends,
            layers=layers,
        )
        self._method, self._base = method, base
        self._source_knobs, self._merge_knobs = dict(source_knobs), dict(merge_knobs)
        depths_in_path = [f"block{slot.name.removeprefix(frame.host)}" for slot in self._way.slots]
        self._places = [*depths_in_path, *(("embeddings", "head") if outside else ())]
        self._outside = outside
        self._cut = len(self._way.genes)
        self._width = len(self._place_genes(""))
        merges = (gene for place in self._places for gene in self._place_genes(place))
        self.genes: Sequence[Gene] = (*self._way.genes, *merges)

    def decode(self, genome: Genome) -> Recipe:
        """Return the recipe of a genome."""
        blocks = tuple(
            replace(self._merge(genome, slot, hop.layer), scale=hop.scale)
            for slot, hop in self._way.walk(genome[: self._cut])
        )
        recipe = replace(self._frame, layers={self._stack: blocks})
        if not self._outside:
            return recipe
        embeddings, head = len(self._places) - 2, len(self._places) - 1
        return replace(
            recipe,
            before=self._merge(genome, embeddings, None),
            after=self._merge(genome, head, None),
        )

    def encode(self, recipe: Recipe) -> Genome:
        """Return a genome of this recipe; slots that are out have their knobs at the start.

        Raises:
            RecipeError: the recipe merges otherwise, or its path does not fit.
        """
        layers = recipe.layers.get(self._stack, ())
        path = tuple(
            Hop(self._frame.host, self._depth_of(layer, place), layer.scale)
            for place, layer in enumerate(layers)
        )
        slots, way = self._way.retrace(path, recipe.options)
        knobs = [gene.start for gene in self.genes[self._cut :]]
        placed = list(zip(slots, layers, strict=True))
        if self._outside:
            placed += [
                (len(self._places) - 2, recipe.before),
                (len(self._places) - 1, recipe.after),
            ]
        for place, layer in placed:
            knobs[place * self._width : (place + 1) * self._width] = self._knobs_of(layer)
        genome = (*way, *knobs)
        if self.decode(genome) != recipe:
            raise RecipeError(
                f"The recipe is not a {self._method!r} merge of this space's parents with its "
                "host, base, embeddings and head."
            )
        return genome

    def baselines(self) -> dict[str, Recipe]:
        """Every parent as it is, and their plain average."""
        found = baselines_of(self._parents, self._stack, self._frame)
        if len(self._parents) < 2:
            return found
        depth = next(iter(self._parents.values()))
        uniform = uniform_recipe(list(self._parents), depth, self._stack, self._frame)
        return {**found, "uniform": uniform}

    def baseline_genomes(self) -> dict[str, Genome]:
        """Genomes of the baselines that are paths of this space."""
        return genomes_of(self)

    def _searched(self) -> list[tuple[str | None, str, tuple[float, float, float]]]:
        """(parent or None, knob, range) of one merge, in the genome's order."""
        pairs = [
            *((parent, self._source_knobs) for parent in self._parents),
            (None, self._merge_knobs),
        ]
        return [
            (parent, knob, span)
            for parent, knobs in pairs
            for knob, span in knobs.items()
            if isinstance(span, tuple)
        ]

    def _place_genes(self, place: str) -> list[Gene]:
        return [
            Gene(f"{place}.{parent}.{knob}" if parent else f"{place}.{knob}", "real", *span)
            for parent, knob, span in self._searched()
        ]

    def _merge(self, genome: Genome, place: int, layer: int | None) -> Layer:
        at = self._cut + place * self._width
        values = {
            (parent, knob): value
            for (parent, knob, _), value in zip(
                self._searched(), genome[at : at + self._width], strict=True
            )
        }

        def fill(parent: str | None, knobs: Mapping[str, KnobRange]) -> dict[str, float]:
            return {
                knob: values[parent, knob] if isinstance(span, tuple) else span
                for knob, span in knobs.items()
            }

        return Layer(
            self._method,
            tuple(Source(name, layer, fill(name, self._source_knobs)) for name in self._parents),
            base=Source(self._base, layer) if self._base else None,
            knobs=fill(None, self._merge_knobs),
        )

    def _knobs_of(self, layer: Layer) -> list[float]:
        sources = {source.parent: source for source in layer.sources}
        found = []
        for parent, knob, (low, high, _) in self._searched():
            holder = layer.knobs if parent is None else getattr(sources.get(parent), "knobs", {})
            value = holder.get(knob)
            if not isinstance(value, float) or not low <= value <= high:
                raise RecipeError(
                    f"The recipe has {value!r} for {knob} of {parent or 'the merge'}; this space "
                    f"allows {low:g} to {high:g}."
                )
            found.append(value)
        return found

    def _depth_of(self, layer: Layer, place: int) -> int:
        depths = {source.layer for source in layer.sources}
        depth = depths.pop() if len(depths) == 1 else None
        if depth is None:
            raise RecipeError(f"Block {place} of the recipe does not merge blocks of one depth.")
        return depth
