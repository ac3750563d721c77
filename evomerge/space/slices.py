"""Frankenmerges (such as Goliath-120B): paths of a few contiguous slices of the parents.

A slice is a parent, a first block and a last block. The slices of a path may overlap.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator

from evomerge.errors import ConfigError
from evomerge.recipe import Recipe
from evomerge.space.paths import (
    Hop,
    Layers,
    PathConfig,
    PathSpace,
    check_depth,
    in_order,
    scale_gene,
)
from evomerge.space.protocol import Gene, Genome

Slice: TypeAlias = tuple[str, int, int, float]
"""Parent, first block, last block, and scale of the hidden state that enters the first block."""


class FrankenmergeConfig(PathConfig):
    """A data-flow space of slices."""

    variant: Literal["frankenmerge"]
    """frankenmerge: a few contiguous slices"""
    layers: Layers = (1, None)
    slices: Annotated[tuple[int, int], AfterValidator(in_order)] = (2, 4)
    """[min, max] number of slices"""

    def over(self, depths: Mapping[str, int], frame: Recipe, stack: str) -> PathSpace:
        """Return the space; see `PathConfig.over`."""
        return SliceSpace(self, depths, frame, stack)


class SliceSpace(PathSpace):
    """Paths of contiguous slices.

    Genome: the number n of slices. Then, for each possible slice: its parent, at first each equally
    likely, its first and last block (integers, in either order), and the scale of the hidden state
    that enters it, except for the first slice. Only the first n slices are used. What can have one
    value only is no gene. The search starts at the slices that together are the host.

    Decoding repairs paths outside of `layers`. If a path is too short, its slices are extended to
    the ends of their parents, the last slice first; then further slices are added. If it is too
    long, its slices lose their last blocks, the last slice first; each slice keeps at least one.
    """

    def __init__(
        self, config: FrankenmergeConfig, parents: Mapping[str, int], frame: Recipe, stack: str
    ) -> None:
        super().__init__(config, parents, frame, stack)
        host_depth, slices, layers = parents[frame.host], config.slices, config.layers
        if slices[1] > host_depth:
            raise ConfigError(
                f"space.slices is {list(slices)}; it must be at most {host_depth}, the blocks of "
                f"the host {frame.host!r}."
            )
        self._count = slices
        # Every genome must decode, even one whose slices are all of the shallowest parent.
        check_depth((layers[0], None), (slices[0], slices[1] * min(parents.values())))
        self._fewest, self._most = check_depth(
            layers, (slices[0], slices[1] * max(parents.values()))
        )
        self.max_depth = max(self._most, *parents.values())
        self.genes = self._make_genes(host_depth)

    def decode(self, genome: Genome) -> Recipe:
        """Return the recipe of a genome."""
        values = dict(zip((gene.name for gene in self.genes), genome, strict=True))
        count = min(round(values.get("slices", self._count[0])), self._most)
        possible = [self._slice(values, index) for index in range(self._count[1])]
        slices = self._shorten(self._grow(possible, count))
        return self._decoded(
            tuple(
                Hop(parent, layer, scale if layer == first and index else 1.0)
                for index, (parent, first, last, scale) in enumerate(slices)
                for layer in range(first, last + 1)
            )
        )

    def own_path(self, parent: str) -> Genome | None:
        """Return a genome of all blocks of a parent in order, without scales, if there is one.

        If the space needs several slices, all but the last have one block.
        """
        depth, count = self._parents[parent], self._count[0]
        fits = self._fewest <= depth <= self._most and count <= depth
        if not fits or not self._is_unscaled(count):
            return None
        values = {"slices": float(count)}
        for index in range(count):
            values |= {
                f"slice{index}.parent": float(self._names.index(parent)),
                f"slice{index}.first": float(index),
                f"slice{index}.last": float(index if index < count - 1 else depth - 1),
            }
        return tuple(values.get(gene.name, gene.start) for gene in self.genes)

    def _make_genes(self, host_depth: int) -> tuple[Gene, ...]:
        fewest, most = self._count
        host = float(self._names.index(self._frame.host))
        deepest = float(max(self._parents.values()) - 1)
        genes = [Gene("slices", "integer", fewest, most, start=most)] if fewest < most else []
        for index in range(most):
            first = host_depth * index // most
            last = host_depth * (index + 1) // most - 1
            if len(self._names) > 1:
                top, name = float(len(self._names) - 1), f"slice{index}.parent"
                genes.append(Gene(name, "choice", 0.0, top, host, choices=self._names))
            genes += [
                Gene(f"slice{index}.first", "integer", 0.0, deepest, float(first)),
                Gene(f"slice{index}.last", "integer", 0.0, deepest, float(last)),
            ]
            if self._bounds[0] < self._bounds[1] and index:
                genes.append(scale_gene(f"slice{index}.scale", self._bounds))
        return tuple(genes)

    def _slice(self, values: Mapping[str, float], index: int) -> Slice:
        """Return the slice at an index, given the values of the genes by name."""
        parent = self._names[round(values.get(f"slice{index}.parent", 0.0))]
        ends = (values[f"slice{index}.{end}"] for end in ("first", "last"))
        first, last = sorted(min(round(end), self._parents[parent] - 1) for end in ends)
        return parent, first, last, values.get(f"slice{index}.scale", self._bounds[0])

    def _grow(self, slices: list[Slice], count: int) -> list[Slice]:
        """Return the first `count` slices, extended and with further slices if too short."""
        missing = self._fewest - sum(last - first + 1 for _, first, last, _ in slices[:count])
        for index in [*reversed(range(count)), *range(count, len(slices))]:
            if missing <= 0:
                break
            parent, first, last, scale = slices[index]
            if index >= count:
                missing -= last - first + 1
                count = index + 1
            up = max(min(missing, self._parents[parent] - 1 - last), 0)
            down = max(min(missing - up, first), 0)
            slices[index] = (parent, first - down, last + up, scale)
            missing -= up + down
        return slices[:count]

    def _shorten(self, slices: list[Slice]) -> list[Slice]:
        """Return the slices without the last blocks that are too many."""
        excess = sum(last - first + 1 for _, first, last, _ in slices) - self._most
        for index in reversed(range(len(slices))):
            parent, first, last, scale = slices[index]
            cut = max(min(excess, last - first), 0)
            slices[index] = (parent, first, last - cut, scale)
            excess -= cut
        return slices
