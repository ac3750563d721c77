"""How genes encode the scales between the blocks of a path.

Between two consecutive blocks of a path, the hidden state may be multiplied by a scale. There are
four ways to encode these scales, all with the same interface (`ScaleCoding`):

- `FixedScale`: no genes, one number for all scales;
- `SlotScales`: one gene for each slot, used only if the path includes the slot (arXiv 2605.12326);
- `ScaleMatrix`: one gene W[i, j] for each pair of blocks (arXiv 2403.13187, section 3.2);
- `ScaleNetwork`: a small network pi_theta(i, j, t) instead of W, for models where W would have too
  many genes (same section).

Nothing comes before the first block of a path, so its scale is always 1.

In this module M is the number of blocks of all parents together.
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
    """One entry of the layout: a block of a parent that a path may include at this position.

    Attributes:
        parent: reference of the parent.
        layer: index of the block in that parent, from 0.
        block: index of the block among all blocks of all parents, 0 to M - 1.
        turn: index of the repetition of the layout that the slot belongs to, from 0.
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


class ScaleCoding(Protocol):
    """A map between values of genes and the scales of a path, in both directions."""

    @property
    def genes(self) -> Sequence[Gene]:
        """The genes."""
        ...

    def decode(self, values: Sequence[float], chosen: Sequence[int]) -> tuple[float, ...]:
        """Return the scales of a path.

        Args:
            values: one for each gene.
            chosen: indices of the slots that the path includes, ascending.

        Returns:
            The scale before each chosen slot; the first is 1.
        """
        ...

    def encode(
        self, scales: Sequence[float], chosen: Sequence[int], options: Mapping[str, str]
    ) -> tuple[float, ...]:
        """Return values of the genes that decode to these scales.

        Args:
            scales: the scale before each chosen slot.
            chosen: indices of the slots that the path includes, ascending.
            options: the options of the recipe, with what `options` returned.

        Raises:
            RecipeError: there are no such values.
        """
        ...

    def options(self, values: Sequence[float]) -> dict[str, str]:
        """Return the recipe options that `encode` needs besides the scales."""
        ...


def _gene(name: str, bounds: tuple[float, float]) -> Gene:
    low, high = bounds
    return Gene(name, "real", low, high, start=min(max(1.0, low), high), sigma=(high - low) / 6)


def scale_in_range(scale: float, bounds: tuple[float, float]) -> float:
    """Return `scale` unchanged, after checking that it is in the range (smallest, largest).

    Raises:
        RecipeError: it is outside of the range.
    """
    if not bounds[0] <= scale <= bounds[1]:
        raise RecipeError(
            f"The path has the scale {scale:g}; this space allows {bounds[0]:g} to {bounds[1]:g}."
        )
    return scale


class FixedScale:
    """All scales are one fixed number (1: the blocks are stacked without scales)."""

    def __init__(self, scale: float = 1.0) -> None:
        self._scale = scale
        self.genes: tuple[Gene, ...] = ()

    def decode(self, values: Sequence[float], chosen: Sequence[int]) -> tuple[float, ...]:
        """Return 1 for the first slot and the fixed scale for all others."""
        return (1.0, *[self._scale] * (len(chosen) - 1))

    def encode(
        self, scales: Sequence[float], chosen: Sequence[int], options: Mapping[str, str]
    ) -> tuple[float, ...]:
        """Check that all scales are the fixed one."""
        _check_first(scales)
        for scale in scales[1:]:
            scale_in_range(scale, (self._scale, self._scale))
        return ()

    def options(self, values: Sequence[float]) -> dict[str, str]:
        """Return no options."""
        return {}


class SlotScales:
    """One scale gene for each slot, used only if the path includes it (arXiv 2605.12326).

    Args:
        slots: the layout.
        bounds: smallest and largest scale.
    """

    def __init__(self, slots: Sequence[Slot], bounds: tuple[float, float]) -> None:
        self._bounds = bounds
        # If the first slot of the layout is in a path, it comes first, where the scale is 1.
        self.genes = tuple(_gene(f"scale.{slot.name}", bounds) for slot in slots[1:])

    def decode(self, values: Sequence[float], chosen: Sequence[int]) -> tuple[float, ...]:
        """Return the genes of the chosen slots."""
        return (1.0, *(values[slot - 1] for slot in chosen[1:]))

    def encode(
        self, scales: Sequence[float], chosen: Sequence[int], options: Mapping[str, str]
    ) -> tuple[float, ...]:
        """Set the genes of the chosen slots; the others stay at their start."""
        _check_first(scales)
        values = [gene.start for gene in self.genes]
        for slot, scale in zip(chosen[1:], scales[1:], strict=True):
            values[slot - 1] = scale_in_range(scale, self._bounds)
        return tuple(values)

    def options(self, values: Sequence[float]) -> dict[str, str]:
        """Return no options."""
        return {}


class ScaleMatrix:
    """One gene W[i, j] for each pair of blocks: the scale where block j follows block i in a path.

    Source: arXiv 2403.13187, section 3.2. There W is an M x M matrix; here the pairs that no path
    of the layout can have are left out.

    Args:
        slots: the layout.
        bounds: smallest and largest scale.
    """

    def __init__(self, slots: Sequence[Slot], bounds: tuple[float, float]) -> None:
        self._bounds = bounds
        self._blocks = [slot.block for slot in slots]
        names = {slot.block: f"{slot.parent}[{slot.layer}]" for slot in slots}
        pairs: set[tuple[int, int]] = set()
        earlier: set[int] = set()
        for slot in slots:
            pairs.update((block, slot.block) for block in earlier)
            earlier.add(slot.block)
        self._column = {pair: index for index, pair in enumerate(sorted(pairs))}
        self.genes = tuple(_gene(f"scale.{names[i]}->{names[j]}", bounds) for i, j in self._column)

    def decode(self, values: Sequence[float], chosen: Sequence[int]) -> tuple[float, ...]:
        """Return W[i, j] for every two consecutive blocks of the path."""
        return (1.0, *(values[column] for column in self._columns(chosen)))

    def encode(
        self, scales: Sequence[float], chosen: Sequence[int], options: Mapping[str, str]
    ) -> tuple[float, ...]:
        """Set W[i, j] for every two consecutive blocks of the path; the rest stays at its start."""
        _check_first(scales)
        values = [gene.start for gene in self.genes]
        seen: dict[int, float] = {}
        for column, scale in zip(self._columns(chosen), scales[1:], strict=True):
            if seen.setdefault(column, scale) != scale:
                raise RecipeError(
                    f"The path has two scales, {seen[column]:g} and {scale:g}, for one pair of "
                    f"blocks ({self.genes[column].name.removeprefix('scale.')}); in this space a "
                    "pair of blocks has one scale."
                )
            values[column] = scale_in_range(scale, self._bounds)
        return tuple(values)

    def options(self, values: Sequence[float]) -> dict[str, str]:
        """Return no options."""
        return {}

    def _columns(self, chosen: Sequence[int]) -> list[int]:
        """Return the index of the gene for every two consecutive blocks of a path."""
        return [self._column[self._blocks[one], self._blocks[two]] for one, two in pairwise(chosen)]


class ScaleNetwork:
    """A network pi_theta(i, j, t) with one hidden layer that computes every scale; genes: theta.

    Its inputs are the block i that the hidden state leaves, the block j that it enters, and the
    position t in the path, each mapped to [-1, 1]. The hidden units are tanh. The output is 1 plus
    a weighted sum, rounded to 6 decimals and clipped to the range of scales. The output weights
    start at 0, so that every scale starts at 1. The weights cannot be computed from a path, so a
    recipe stores them in its option `scale_network`.

    Source: arXiv 2403.13187, section 3.2. The paper does not give the size of the network.

    Args:
        slots: the layout.
        bounds: smallest and largest scale; the range must contain 1.
        hidden: number of hidden units.
    """

    option = "scale_network"

    def __init__(self, slots: Sequence[Slot], bounds: tuple[float, float], hidden: int = 8) -> None:
        self._bounds = bounds
        self._hidden = hidden
        self._places = len(slots)
        self._blocks = [slot.block for slot in slots]
        self._largest = max(max(self._blocks), 1)
        draw = random.Random(0)  # the hidden units must differ from each other at the start
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

    def encode(
        self, scales: Sequence[float], chosen: Sequence[int], options: Mapping[str, str]
    ) -> tuple[float, ...]:
        """Return the weights in the recipe's options; without the option all scales must be 1."""
        _check_first(scales)
        text = options.get(self.option)
        values = tuple(gene.start for gene in self.genes)
        if text is not None:
            values = tuple(float(word) for word in text.split())
        if len(values) != len(self.genes) or self.decode(values, chosen) != tuple(scales):
            raise RecipeError(
                "The scales of the path are not those of the scale network in the recipe option "
                f"{self.option!r}; give a recipe from a search with this coding, or a path without "
                "scales."
            )
        return values

    def options(self, values: Sequence[float]) -> dict[str, str]:
        """Return the weights of the network, or nothing if all output weights are 0."""
        if not any(values[4 * self._hidden :]):
            return {}
        return {self.option: " ".join(repr(float(value)) for value in values)}


def _check_first(scales: Sequence[float]) -> None:
    if scales and scales[0] != 1.0:
        raise RecipeError(f"The first block of the path has the scale {scales[0]:g}; it must be 1.")
