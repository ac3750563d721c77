"""How genes encode the scales between the blocks of a path.

Nothing comes before the first block, so its scale is always 1. At the start of a search all scales
are 1, or the nearest number of their range.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from evomerge.space.paths.frame import scale_gene
from evomerge.space.protocol import Gene


@dataclass(frozen=True)
class Slot:
    """One entry of the layout: a block of a parent that a path may include at this position.

    Attributes:
        block: index of the block among all blocks of all parents, from 0.
    """

    parent: str
    layer: int
    block: int
    turn: int

    @property
    def name(self) -> str:
        """Name in genes: `zoo:maths[4]`, and `zoo:maths[4]#2` in the second repetition."""
        turn = f"#{self.turn + 1}" if self.turn else ""
        return f"{self.parent}[{self.layer}]{turn}"


class ScaleCoding(ABC):
    """A map from the values of genes to the scales of a path."""

    genes: tuple[Gene, ...] = ()

    @abstractmethod
    def decode(self, values: Sequence[float], chosen: Sequence[int]) -> tuple[float, ...]:
        """Return the scale before each chosen slot (ascending indices of slots); the first is 1."""


class FixedScale(ScaleCoding):
    """All scales are one fixed number (1: the blocks are stacked without scales)."""

    def __init__(self, scale: float) -> None:
        self._scale = scale

    def decode(self, values: Sequence[float], chosen: Sequence[int]) -> tuple[float, ...]:
        """Return 1 for the first slot and the fixed scale for all others."""
        return (1.0, *[self._scale] * (len(chosen) - 1))


class SlotScales(ScaleCoding):
    """One scale gene for each slot, used only if the path includes it (arXiv 2605.12326)."""

    def __init__(self, slots: Sequence[Slot], bounds: tuple[float, float]) -> None:
        # If the first slot of the layout is in a path, it comes first, where the scale is 1.
        self.genes = tuple(scale_gene(f"scale.{slot.name}", bounds) for slot in slots[1:])

    def decode(self, values: Sequence[float], chosen: Sequence[int]) -> tuple[float, ...]:
        """Return the genes of the chosen slots."""
        return (1.0, *(values[slot - 1] for slot in chosen[1:]))


class ScaleMatrix(ScaleCoding):
    """One gene W[i, j] for each pair of blocks: the scale where block j follows block i in a path.

    Source: arXiv 2403.13187, section 3.2. There W has a row and a column for every block of every
    parent; here the pairs that no path of the layout can have are left out.
    """

    def __init__(self, slots: Sequence[Slot], bounds: tuple[float, float]) -> None:
        self._blocks = [slot.block for slot in slots]
        names = {slot.block: f"{slot.parent}[{slot.layer}]" for slot in slots}
        pairs: set[tuple[int, int]] = set()
        earlier: set[int] = set()
        for slot in slots:
            pairs.update((block, slot.block) for block in earlier)
            earlier.add(slot.block)
        self._column = {pair: index for index, pair in enumerate(sorted(pairs))}
        self.genes = tuple(
            scale_gene(f"scale.{names[i]}->{names[j]}", bounds) for i, j in self._column
        )

    def decode(self, values: Sequence[float], chosen: Sequence[int]) -> tuple[float, ...]:
        """Return W[i, j] for every two consecutive blocks of the path."""
        pairs = pairwise(self._blocks[slot] for slot in chosen)
        return (1.0, *(values[self._column[pair]] for pair in pairs))
