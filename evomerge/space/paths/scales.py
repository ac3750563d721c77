"""How the scales between the blocks of a path are coded in genes.

The hidden state may be multiplied wherever a path goes from one block to the next (a hop). Three
codings, each with the same two-way map:

- `SlotScales`: one gene a slot, alive only while its slot is in (arXiv 2605.12326);
- `HopMatrix`: one gene a pair of blocks, W[i, j] (arXiv 2403.13187, section 3.2);
- `HopNetwork`: a small network pi_theta(i, j, t) in place of W, where M x M genes are too many
  (same paper).

The state that enters the first block of a path has come by no hop; its scale is 1.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from evomerge.errors import RecipeError
from evomerge.space.protocol import Gene


@dataclass(frozen=True)
class Slot:
    """A place in the layout of a path.

    Attributes:
        parent: reference of the parent.
        layer: index of its block, from 0.
        block: number of that block among all blocks of all parents, from 0.
        turn: which repetition of the layout the slot belongs to, from 0.
    """

    parent: str
    layer: int
    block: int
    turn: int

    @property
    def name(self) -> str:
        """Readable address, `zoo:maths[4]` and `zoo:maths[4]#2` in the second repetition."""
        turn = f"#{self.turn + 1}" if self.turn else ""
        return f"{self.parent}[{self.layer}]{turn}"


class ScaleCoding(Protocol):
    """Two-way map between genes and the scales of a path through chosen slots."""

    @property
    def genes(self) -> Sequence[Gene]:
        """The coordinates."""
        ...

    def decode(self, values: Sequence[float], chosen: Sequence[int]) -> tuple[float, ...]:
        """Return the scale that enters each chosen slot; the first is 1."""
        ...

    def encode(
        self, scales: Sequence[float], chosen: Sequence[int], options: Mapping[str, str]
    ) -> tuple[float, ...]:
        """Return genes that decode to these scales.

        Raises:
            RecipeError: no genes of this coding do.
        """
        ...

    def options(self, values: Sequence[float]) -> dict[str, str]:
        """What a recipe must remember besides the scales, so that `encode` can go back."""
        ...


def _gene(name: str, bounds: tuple[float, float]) -> Gene:
    low, high = bounds
    return Gene(name, "real", low, high, start=min(max(1.0, low), high), sigma=(high - low) / 6)


def within(scale: float, bounds: tuple[float, float]) -> float:
    """Return `scale` if the range has it.

    Raises:
        RecipeError: it lies outside.
    """
    if not bounds[0] <= scale <= bounds[1]:
        raise RecipeError(
            f"The path has the scale {scale:g}; this space allows {bounds[0]:g} to {bounds[1]:g}."
        )
    return scale


class NoScales:
    """Every scale is one fixed number (1: plain stacking)."""

    def __init__(self, scale: float = 1.0) -> None:
        self._scale = scale
        self.genes: tuple[Gene, ...] = ()

    def decode(self, values: Sequence[float], chosen: Sequence[int]) -> tuple[float, ...]:
        """Return 1 and the fixed scale at every hop."""
        return (1.0, *[self._scale] * (len(chosen) - 1))

    def encode(
        self, scales: Sequence[float], chosen: Sequence[int], options: Mapping[str, str]
    ) -> tuple[float, ...]:
        """Check that the scales are the fixed ones."""
        _first_is_plain(scales)
        for scale in scales[1:]:
            within(scale, (self._scale, self._scale))
        return ()

    def options(self, values: Sequence[float]) -> dict[str, str]:
        """Nothing to remember."""
        return {}


class SlotScales:
    """One scale gene a slot, conditional on the slot's indicator (arXiv 2605.12326).

    Args:
        slots: the layout.
        bounds: smallest and largest scale.
    """

    def __init__(self, slots: Sequence[Slot], bounds: tuple[float, float]) -> None:
        self._bounds = bounds
        # No hop leads into the first slot of the layout, so it has no gene.
        self.genes = tuple(_gene(f"scale.{slot.name}", bounds) for slot in slots[1:])

    def decode(self, values: Sequence[float], chosen: Sequence[int]) -> tuple[float, ...]:
        """Read each chosen slot's own gene."""
        return (1.0, *(values[slot - 1] for slot in chosen[1:]))

    def encode(
        self, scales: Sequence[float], chosen: Sequence[int], options: Mapping[str, str]
    ) -> tuple[float, ...]:
        """Write each chosen slot's gene; the others stay at their start."""
        _first_is_plain(scales)
        values = [gene.start for gene in self.genes]
        for slot, scale in zip(chosen[1:], scales[1:], strict=True):
            values[slot - 1] = within(scale, self._bounds)
        return tuple(values)

    def options(self, values: Sequence[float]) -> dict[str, str]:
        """Nothing to remember."""
        return {}


class HopMatrix:
    """W[i, j], the scale between block i and block j, for every pair that some path can join.

    Source: arXiv 2403.13187, section 3.2; W is M x M, less the pairs that the order forbids.

    Args:
        slots: the layout.
        bounds: smallest and largest scale.
    """

    def __init__(self, slots: Sequence[Slot], bounds: tuple[float, float]) -> None:
        self._bounds = bounds
        self._blocks = [slot.block for slot in slots]
        names = {slot.block: f"{slot.parent}[{slot.layer}]" for slot in slots}
        pairs: dict[tuple[int, int], None] = {}
        before: dict[int, None] = {}
        for slot in slots:
            pairs.update(((earlier, slot.block), None) for earlier in before)
            before.setdefault(slot.block)
        self._column = {pair: index for index, pair in enumerate(sorted(pairs))}
        self.genes = tuple(_gene(f"scale.{names[i]}->{names[j]}", bounds) for i, j in self._column)

    def decode(self, values: Sequence[float], chosen: Sequence[int]) -> tuple[float, ...]:
        """Look each hop up in W."""
        return (1.0, *(values[column] for column in self._hops(chosen)))

    def encode(
        self, scales: Sequence[float], chosen: Sequence[int], options: Mapping[str, str]
    ) -> tuple[float, ...]:
        """Write each hop into W; pairs without a hop stay at their start."""
        _first_is_plain(scales)
        values = [gene.start for gene in self.genes]
        seen: dict[int, float] = {}
        for column, scale in zip(self._hops(chosen), scales[1:], strict=True):
            if seen.setdefault(column, scale) != scale:
                raise RecipeError(
                    f"The path scales one hop ({self.genes[column].name.removeprefix('scale.')}) "
                    f"by both {seen[column]:g} and {scale:g}; here a pair of blocks has one scale."
                )
            values[column] = within(scale, self._bounds)
        return tuple(values)

    def options(self, values: Sequence[float]) -> dict[str, str]:
        """Nothing to remember."""
        return {}

    def _hops(self, chosen: Sequence[int]) -> list[int]:
        return [self._column[self._blocks[one], self._blocks[two]] for one, two in pairwise(chosen)]


class HopNetwork:
    """pi_theta(i, j, t), a network of one hidden layer that gives the scale of a hop.

    Inputs are the block left, the block entered and the place in the path, each in [-1, 1]; the
    hidden units are tanh, the output is 1 + a weighted sum, clipped to the range and rounded to
    six digits. Output weights start at 0, so that every scale starts at 1. The weights cannot be
    read off a path, so a recipe keeps them (option `scale_network`).

    Source: arXiv 2403.13187, section 3.2; the size of the network is not given there.

    Args:
        slots: the layout.
        bounds: smallest and largest scale; contains 1.
        hidden: number of hidden units.
    """

    option = "scale_network"

    def __init__(self, slots: Sequence[Slot], bounds: tuple[float, float], hidden: int = 8) -> None:
        self._bounds = bounds
        self._hidden = hidden
        self._places = len(slots)
        self._blocks = [slot.block for slot in slots]
        self._largest = max(max(self._blocks), 1)
        draw = random.Random(0)  # hidden units must differ from each other at the start
        inner = tuple(
            Gene(f"scale.network.{unit}.{feature}", "real", -4.0, 4.0, draw.gauss(0.0, 1.0), 0.5)
            for unit in range(hidden)
            for feature in ("from", "to", "place", "bias")
        )
        step = (bounds[1] - bounds[0]) / 6 / math.sqrt(hidden)
        outer = tuple(
            Gene(f"scale.network.out.{unit}", "real", -6 * step, 6 * step, 0.0, step)
            for unit in (*range(hidden), "bias")
        )
        self.genes = tuple(
            Gene(g.name, g.kind, g.low, g.high, min(max(g.start, g.low), g.high), g.sigma)
            for g in (*inner, *outer)
        )

    def decode(self, values: Sequence[float], chosen: Sequence[int]) -> tuple[float, ...]:
        """Run the network at every hop."""
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

    def encode(
        self, scales: Sequence[float], chosen: Sequence[int], options: Mapping[str, str]
    ) -> tuple[float, ...]:
        """Take the network from the recipe's options; without it every scale must be 1."""
        _first_is_plain(scales)
        text = options.get(self.option)
        values = tuple(gene.start for gene in self.genes)
        if text is not None:
            values = tuple(float(word) for word in text.split())
        if len(values) != len(self.genes) or self.decode(values, chosen) != tuple(scales):
            raise RecipeError(
                "The path's scales do not come from this space's scale network (recipe option "
                f"{self.option!r}); start from a recipe of such a search, or one without scales."
            )
        return values

    def options(self, values: Sequence[float]) -> dict[str, str]:
        """Return the network's weights, unless its output is switched off."""
        if not any(values[4 * self._hidden :]):
            return {}
        return {self.option: " ".join(repr(float(value)) for value in values)}


def _first_is_plain(scales: Sequence[float]) -> None:
    if scales and scales[0] != 1.0:
        raise RecipeError(
            f"The path scales its first block by {scales[0]:g}; no hop leads there, it must be 1."
        )
