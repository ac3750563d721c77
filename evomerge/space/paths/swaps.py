"""Paths that choose a parent at each depth: block i of the model is block i of one parent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from evomerge.errors import ConfigError, RecipeError
from evomerge.recipe import Recipe
from evomerge.space.paths.frame import baselines_of, check_scales, genomes_of, path_in
from evomerge.space.paths.path import Hop, layers_of
from evomerge.space.paths.scales import scale_in_range
from evomerge.space.protocol import Gene, Genome


class SwapSpace:
    """Paths that have, at each depth of the host, one parent's block of that depth.

    Genome: for each block of the host, the parent that it comes from. Then the scales, if they are
    searched. At first every parent is equally likely at each depth.

    Args:
        parents: parent -> number of its blocks, at least as many as the host has.
        frame: recipe of everything except the path.
        stack: name of the block stack.
        scales: range of the scales, or one number for all scales.

    Raises:
        ConfigError: a parent has fewer blocks than the host, or the range of scales contains 0.
    """

    def __init__(
        self,
        parents: Mapping[str, int],
        frame: Recipe,
        *,
        stack: str = "model.layers",
        scales: tuple[float, float] | float = 1.0,
    ) -> None:
        self._names, self._depth = tuple(parents), parents[frame.host]
        for parent, depth in parents.items():
            if depth < self._depth:
                raise ConfigError(
                    f"space.variant is 'swaps', but {parent!r} has {depth} blocks and the host "
                    f"{frame.host!r} has {self._depth}; make the shallowest parent the host."
                )
        self._parents = dict(parents)
        self._frame, self._stack = replace(frame, layers={}), stack
        checked = check_scales(scales)
        self._bounds = (checked, checked) if isinstance(checked, (int, float)) else checked
        low, high = self._bounds
        last = float(len(self._names) - 1)
        choices = [
            Gene(f"block{index}", "choice", 0.0, last, last / 2, choices=self._names)
            for index in range(self._depth)
        ]
        start = min(max(1.0, low), high)
        scale_genes = [
            Gene(f"scale.block{index}", "real", low, high, start, (high - low) / 6)
            for index in range(1, self._depth)
            if low < high
        ]
        self.genes: Sequence[Gene] = (*choices, *scale_genes)

    @property
    def max_depth(self) -> int:
        """Number of blocks of the deepest parent; a path is as deep as the host."""
        return max(self._parents.values())

    def decode(self, genome: Genome) -> Recipe:
        """Return the recipe of a genome."""
        top = len(self._names) - 1
        scales = (1.0, *(genome[self._depth :] or [self._bounds[0]] * (self._depth - 1)))
        path = (
            Hop(self._names[min(max(round(genome[layer]), 0), top)], layer, scales[layer])
            for layer in range(self._depth)
        )
        return replace(self._frame, layers={self._stack: layers_of(path)})

    def encode(self, recipe: Recipe) -> Genome:
        """Return the genome of the recipe's path.

        Raises:
            RecipeError: a block is at another depth than in its parent, the path uses another
                parent or a scale outside of the range, or the recipe differs in more than the path.
        """
        path = path_in(recipe, self._frame, self._stack)
        if [hop.layer for hop in path] != list(range(self._depth)):
            raise RecipeError(
                "The path has blocks at another depth than their parent; in this space every block "
                "keeps its depth."
            )
        for hop in path:
            if hop.parent not in self._parents:
                raise RecipeError(f"The path uses {hop.parent!r}, which this space does not have.")
        if path[0].scale != 1.0:
            raise RecipeError("The first block of the path has a scale; it must be 1.")
        scales = tuple(scale_in_range(hop.scale, self._bounds) for hop in path[1:])
        searched = self._bounds[0] < self._bounds[1]
        choices = (float(self._names.index(hop.parent)) for hop in path)
        return (*choices, *(scales if searched else ()))

    def baselines(self) -> dict[str, Recipe]:
        """Return every parent as it is."""
        return baselines_of(self._parents, self._stack, self._frame)

    def baseline_genomes(self) -> dict[str, list[Genome]]:
        """Return the genomes of the parents whose own path is in this space."""
        return genomes_of(self)
