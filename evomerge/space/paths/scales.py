"""How genes encode the scales between the blocks of a path.

Nothing comes before the first block, so its scale is always 1. At the start of a search all scales
are 1, or the nearest number of their range.
"""

from __future__ import annotations

import math
import random
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

    def options(self, values: Sequence[float]) -> dict[str, str]:
        """Return options of the recipe that say more than its scales."""
        return {}


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


class ScaleNetwork(ScaleCoding):
    """A network pi_theta(i, j, t) with one hidden layer that computes every scale; genes: theta.

    It stands for W where that would have too many genes (arXiv 2403.13187, section 3.2, which does
    not give its size). Its inputs are the block i that the hidden state leaves, the block j that it
    enters, and the position t in the path, each mapped to [-1, 1]. The hidden units are tanh. The
    output is 1 plus a weighted sum, rounded to 6 decimals and clipped to the range of scales, which
    must contain 1. The output weights start at 0, so that every scale starts at 1. A recipe has the
    weights in its option `scale_network`.
    """

    def __init__(self, slots: Sequence[Slot], bounds: tuple[float, float], hidden: int) -> None:
        self._bounds, self._hidden = bounds, hidden
        self._places = len(slots)
        self._blocks = [slot.block for slot in slots]
        self._largest = max(max(self._blocks), 1)
        draw = random.Random(0)  # the hidden units must differ from each other at the start
        inner = (
            Gene(
                f"scale.network.{unit}.{feature}",
                "real",
                low=-4.0,
                high=4.0,
                start=min(max(draw.gauss(0.0, 1.0), -4.0), 4.0),
                sigma=0.5,
            )
            for unit in range(hidden)
            for feature in ("from", "to", "place", "bias")
        )
        step = (bounds[1] - bounds[0]) / 6 / math.sqrt(hidden)
        outer = (
            Gene(f"scale.network.out.{unit}", "real", -6 * step, 6 * step, 0.0, step)
            for unit in (*range(hidden), "bias")
        )
        self.genes = (*inner, *outer)

    def decode(self, values: Sequence[float], chosen: Sequence[int]) -> tuple[float, ...]:
        """Compute the scale of every two consecutive blocks of the path."""
        inner, outer = values[: 4 * self._hidden], values[4 * self._hidden :]
        scales = [1.0]
        for place, (one, two) in enumerate(pairwise(chosen), start=1):
            inputs = (
                2 * self._blocks[one] / self._largest - 1,
                2 * self._blocks[two] / self._largest - 1,
                2 * place / self._places - 1,
                1.0,
            )
            total = 1.0 + outer[-1]
            for unit in range(self._hidden):
                weights = inner[4 * unit : 4 * unit + 4]
                activation = math.fsum(w * x for w, x in zip(weights, inputs, strict=True))
                total += outer[unit] * math.tanh(activation)
            scales.append(min(max(round(total, 6), self._bounds[0]), self._bounds[1]))
        return tuple(scales)

    def options(self, values: Sequence[float]) -> dict[str, str]:
        """Return the weights of the network, or nothing if all output weights are 0."""
        if not any(values[4 * self._hidden :]):
            return {}
        return {"scale_network": " ".join(repr(float(value)) for value in values)}
