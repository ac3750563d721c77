"""The joint space: a path through the depths whose every block is a merge of all parents.

The layout is the parents' common depth, repeated r times; a slot that is in is a block merged from
all parents' blocks of that depth, with knobs of its own. So the same depth may be passed twice,
merged differently. docs/dataflow.md has the keys of the search file.

The knobs of a slot are a panel, as in the parameter space: equal kinds, ranges and rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from evomerge.errors import ConfigError, RecipeError
from evomerge.recipe import Layer, Recipe
from evomerge.space.baselines import uniform_recipe
from evomerge.space.knobs import MethodSpec, Setting, plan_knobs
from evomerge.space.panel import Panel, ingredients_of, rounded
from evomerge.space.paths.frame import baselines_of
from evomerge.space.paths.path import Hop, Path
from evomerge.space.paths.slots import SlotSpace
from evomerge.space.protocol import Gene, Genome


class JointSpace:
    """Which depths, in which order, and at each the knobs of a merge.

    Genome: the genes of the path (evomerge.space.paths.slots.SlotSpace), then the knobs of every
    slot, then those of embeddings and head where they are merged.

    Args:
        parents: parent -> number of its blocks; all the same.
        frame: recipe that gives everything else.
        method: merge method of every block.
        knobs: knob -> a range to search or a fixed number; others have the method's own range, or
            stay at its default.
        base: what task vectors are measured from, or None; not a source where the method uses it.
        outside: embeddings and head are merged with knobs of their own, else the frame's.
        stack: name of the block stack.
        repeats: how often the depths are laid out (r).
        indicators: `threshold` or `binary`.
        scales: range of the hops' scales, or a number that all have.
        fixed_ends: the path starts at the first depth and ends at the last.
        layers: fewest and most blocks of a path; None for no limit.

    Raises:
        ConfigError: the parents differ in depth, the method does not take them, or an argument is
            out of its range.
    """

    def __init__(
        self,
        parents: Mapping[str, int],
        frame: Recipe,
        *,
        method: MethodSpec,
        knobs: Mapping[str, Setting] | None = None,
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
        self._depth = next(iter(parents.values()))
        self._base, self._outside = base, outside
        ingredients = ingredients_of([method], list(parents), base)
        self._panel = Panel(ingredients, plan_knobs([method], knobs or {}), ())
        # The host's name stands for "the block of this depth" in the layout.
        self._way = SlotSpace(
            {frame.host: self._depth},
            frame,
            stack=stack,
            repeats=repeats,
            indicators=indicators,
            scales=scales,
            fixed_ends=fixed_ends,
            layers=layers,
        )
        depths_in_path = [f"block{slot.name.removeprefix(frame.host)}" for slot in self._way.slots]
        self._places = [*depths_in_path, *(("embeddings", "head") if outside else ())]
        merges = (
            replace(gene, name=f"{place}.{gene.name}")
            for place in self._places
            for gene in self._panel.genes
        )
        self.genes: Sequence[Gene] = (*self._way.genes, *merges)

    def decode(self, genome: Genome) -> Recipe:
        """Return the recipe of a genome."""
        blocks = tuple(
            replace(self._merge(genome, slot, hop.layer), scale=hop.scale)
            for slot, hop in self._way.walk(genome[: len(self._way.genes)])
        )
        recipe = replace(self._frame, layers={self._stack: blocks})
        if not self._outside:
            return recipe
        embeddings, head = len(self._places) - 2, len(self._places) - 1
        return replace(
            recipe,
            embeddings=self._merge(genome, embeddings, None),
            head=self._merge(genome, head, None),
        )

    def baselines(self) -> dict[str, Recipe]:
        """Every parent as it is, and the plain average of all but the base."""
        found = baselines_of(self._parents, self._stack, self._frame)
        if len(self._parents) < 2:
            return found
        uniform = uniform_recipe(self._experts(), self._depth, self._stack, self._frame)
        return {**found, "uniform": uniform}

    def baseline_genomes(self) -> dict[str, Genome]:
        """Genomes that build baselines, or come nearest: every depth once, parents in shares.

        There are none where the path cannot pass every depth once with scales of 1.
        """
        own_pass: Path = tuple(Hop(self._frame.host, layer) for layer in range(self._depth))
        try:
            way = self._way.retrace(own_pass, {})[1]
        except RecipeError:
            return {}
        experts = self._experts()
        mixtures = {parent: {parent: 1.0} for parent in self._parents}
        if len(self._parents) > 1:
            mixtures["uniform"] = {parent: 1 / len(experts) for parent in experts}
        genomes = {}
        for label, shares in mixtures.items():
            values = self._panel.mixture(shares)
            if values is not None:
                genomes[label] = (*way, *(values * len(self._places)))
        return genomes

    def _merge(self, genome: Genome, place: int, layer: int | None) -> Layer:
        """Return what the knobs of a place make of the parents' blocks of a depth."""
        genes = self._panel.genes
        start = len(self._way.genes) + place * len(genes)
        own = genome[start : start + len(genes)]
        values = [rounded(gene, value) for gene, value in zip(genes, own, strict=True)]
        return self._panel.layer(values, layer)

    def _experts(self) -> list[str]:
        return [parent for parent in self._parents if parent != self._base] or list(self._parents)
