"""Paths that choose a parent at each depth: block i of the model is block i of one parent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from evomerge.errors import ConfigError
from evomerge.recipe import Recipe
from evomerge.space.paths.frame import PathConfig, PathSpace, scale_gene
from evomerge.space.paths.path import Hop
from evomerge.space.protocol import Gene, Genome


class SwapsConfig(PathConfig):
    """A data-flow space that chooses a parent at each depth."""

    keeps_depth = True
    variant: Literal["swaps"]
    """swaps: at each depth the layer of one parent"""

    def over(self, depths: Mapping[str, int], frame: Recipe, stack: str) -> PathSpace:
        """Return the space; see `PathConfig.over`."""
        return SwapSpace(self, depths, frame, stack)


class SwapSpace(PathSpace):
    """Paths that have, at each depth of the host, one parent's block of that depth.

    Genome: for each block of the host, the parent that it comes from, at first each equally likely;
    then the scales, if they are searched. ConfigError: a parent has fewer blocks than the host.
    """

    def __init__(
        self, config: SwapsConfig, parents: Mapping[str, int], frame: Recipe, stack: str
    ) -> None:
        super().__init__(config, parents, frame, stack)
        self._depth, self.max_depth = parents[frame.host], max(parents.values())
        for parent, depth in parents.items():
            if depth < self._depth:
                raise ConfigError(
                    f"space.variant is 'swaps', but {parent!r} has {depth} blocks and the host "
                    f"{frame.host!r} has {self._depth}; make the shallowest parent the host."
                )
        last = float(len(self._names) - 1)
        scaled = range(1, self._depth) if self._bounds[0] < self._bounds[1] else ()
        self.genes = (
            *(
                Gene(f"block{index}", "choice", 0.0, last, last / 2, choices=self._names)
                for index in range(self._depth)
            ),
            *(scale_gene(f"scale.block{index}", self._bounds) for index in scaled),
        )

    def decode(self, genome: Genome) -> Recipe:
        """Return the recipe of a genome."""
        scales = (1.0, *(genome[self._depth :] or [self._bounds[0]] * (self._depth - 1)))
        parents = [self._names[round(value)] for value in genome[: self._depth]]
        return self._decoded(map(Hop, parents, range(self._depth), scales))

    def own_path(self, parent: str) -> Genome | None:
        """Return the genome of all blocks of a parent, without scales, if there is one."""
        if self._parents[parent] != self._depth or not self._is_unscaled(self._depth):
            return None
        number = float(self._names.index(parent))
        return (*[number] * self._depth, *(gene.start for gene in self.genes[self._depth :]))
