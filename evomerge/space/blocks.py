"""The block stacks that a parameter space merges, and the genes of their groups of blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from evomerge.errors import ConfigError
from evomerge.recipe import Layer
from evomerge.space.layer_genes import LayerGenes

Groups = int | Literal["each", "one"]


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


class StackGenes:
    """The genes of one block stack, the same in each group, and the map from values to blocks.

    A stack with fewer blocks than `groups` has a group for each. Where `smooth` is true, the genes
    belong to single blocks, called anchors, and knobs are interpolated between them.
    """

    def __init__(self, stack: BlockStack, genes: LayerGenes, groups: Groups, smooth: bool) -> None:
        self.stack, self.genes, self._smooth = stack, genes, smooth
        self._first = _first_blocks(groups, stack.layers, smooth)

    @property
    def places(self) -> list[tuple[str, LayerGenes]]:
        """The groups or anchors, by a name that says which blocks they are."""
        bounds = pairwise([*self._first, self.stack.layers])
        ranges = [f"{a}" if self._smooth else f"{a}:{b}" for a, b in bounds]
        return [(f"{self.stack.name}[{blocks}]", self.genes) for blocks in ranges]

    def blocks(
        self, groups: Sequence[list[float]], members: Sequence[Sequence[str]] | None
    ) -> tuple[Layer, ...]:
        """Return all blocks, given the values of the genes of every group (or anchor).

        `members`: see `LayerGenes.layer`.
        """
        layers, group = [], 0
        for block in range(self.stack.layers):
            if group + 1 < len(groups) and block >= self._first[group + 1]:
                group += 1
            values = groups[group]
            if self._smooth and block > self._first[group]:
                start, stop = self._first[group], self._first[group + 1]
                share = (block - start) / (stop - start)
                values = self.genes.interpolate(values, groups[group + 1], share)
            layers.append(self.genes.layer(values, block, members))
        return tuple(layers)


def check_groups(groups: Groups, layers: int, smooth: bool) -> None:
    """Raise a `ConfigError` unless the deepest stack can have so many groups."""
    if not isinstance(groups, str) and not 1 <= groups <= layers:
        raise ConfigError(
            f"space.groups is {groups!r}, but the model has {layers} blocks; it must be a number "
            f"from 1 to {layers}, `each` or `one`."
        )
    if smooth and min(_count(groups, layers), layers) < 2:
        raise ConfigError(
            f"space.smooth is true, but space.groups is {groups!r}; interpolation over depth needs "
            "2 groups or more, so change space.groups, or set smooth to false."
        )


def _count(groups: Groups, layers: int) -> int:
    return {"each": layers, "one": 1}[groups] if isinstance(groups, str) else groups


def _first_blocks(groups: Groups, layers: int, smooth: bool) -> list[int]:
    """Return the first block of every group; where knobs are interpolated, the anchors."""
    count = min(_count(groups, layers), layers)
    if not smooth or count == 1:
        return [group * layers // count for group in range(count)]
    steps = count - 1
    return [(2 * anchor * (layers - 1) + steps) // (2 * steps) for anchor in range(count)]
