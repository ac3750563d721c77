"""Sakana AI's space of paths, its structured form, layer dropping, and swaps.

The layout lists all blocks of all parents in order, r times; each entry is a slot. An indicator
says whether the path includes a slot. Between two included slots, a scale multiplies the hidden
state. Sources: arXiv 2403.13187, section 3.2 (layout, indicators, W); arXiv 2605.12326 (binary
indicators, scales that are used only if the slot is included). A swap chooses a parent at each
depth: block i of the model is block i of one parent.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, field_validator

from evomerge.errors import ConfigError
from evomerge.recipe import Recipe
from evomerge.space.paths import (
    Ends,
    Hop,
    Layers,
    PathConfig,
    PathSpace,
    check_depth,
    scale_gene,
)
from evomerge.space.protocol import Gene, Genome

ScaleOf: TypeAlias = Callable[[Sequence[float], int, int], float]
"""Returns the scale between two slots that follow each other in a path, given the scale genes."""

Repeats = Annotated[
    int, Field(ge=1, le=16, description="how often the parents' layers are laid out as slots")
]


class SakanaConfig(PathConfig):
    """Sakana AI's data-flow space."""

    variant: Literal["sakana"] = "sakana"
    """sakana: a slot and an indicator for each layer"""
    repeats: Repeats = 2
    ends: Ends = "fixed"
    start: tuple[float, float] = (1.0, -1.0)
    """start of indicators [in, out] of the first path, in sigmas"""
    layers: Layers = (1, None)

    @field_validator("start")
    @classmethod
    def _in_and_out(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not value[0] > 0 >= value[1]:
            raise ValueError(
                "must be [included, left out], two numbers in sigmas, the first above 0 and the "
                "second at most 0, because a path includes the slots whose indicators are above 0"
            )
        return value

    def over(self, depths: Mapping[str, int], frame: Recipe, stack: str) -> PathSpace:
        """Return the space; see `PathConfig.over`."""
        return SlotSpace(self, depths, frame, stack, repeats=self.repeats, start=self.start)


class StructuredConfig(PathConfig):
    """A data-flow space of slots that are in or out."""

    variant: Literal["structured"]
    """structured: a slot for each layer, in or out"""
    repeats: Repeats = 2
    ends: Ends = "fixed"
    layers: Layers = (1, None)

    def over(self, depths: Mapping[str, int], frame: Recipe, stack: str) -> PathSpace:
        """Return the space; see `PathConfig.over`."""
        return SlotSpace(self, depths, frame, stack, repeats=self.repeats)


class DroppingConfig(PathConfig):
    """A data-flow space that leaves out layers of the host."""

    variant: Literal["dropping"]
    """dropping: the host without some layers"""
    ends: Ends = "fixed"
    layers: Layers = (1, None)

    def over(self, depths: Mapping[str, int], frame: Recipe, stack: str) -> PathSpace:
        """Return the space; see `PathConfig.over`."""
        return SlotSpace(self, {frame.host: depths[frame.host]}, frame, stack)


@dataclass(frozen=True)
class Slot:
    """One entry of the layout: a block of a parent, and its index among those of all parents."""

    parent: str
    layer: int
    block: int
    turn: int

    @property
    def name(self) -> str:
        """Name in genes: `zoo:maths[4]`, and `zoo:maths[4]#2` in the second repetition."""
        turn = f"#{self.turn + 1}" if self.turn else ""
        return f"{self.parent}[{self.layer}]{turn}"


class SlotSpace(PathSpace):
    """Paths through a layout of all blocks of all parents in order, repeated r times.

    Genome: an indicator for each slot that may be included or left out, then the genes of the
    scales. The layout has the host first. If its ends are fixed, it has one more slot, for the last
    block of the host.

    Decoding repairs paths outside of `layers`: a path that is too long loses the slots with the
    lowest indicators, one that is too short gets those with the highest. Of equal indicators, the
    blocks of the host in the first repetition come first, then the earlier slots.

    A structured space and layer dropping have binary indicators, and one scale gene for each slot.
    In Sakana's space an indicator is a real gene, and above 0 the slot is included; it starts at
    one of two values, in sigmas: for the host's blocks in the first repetition, and for the others.
    All scales start at 1, or the nearest number of their range; the first block's is always 1.

    Args:
        repeats: how often the layout has all blocks.
        start: of real indicators; None: they are binary.
    """

    def __init__(
        self,
        config: SakanaConfig | StructuredConfig | DroppingConfig,
        parents: Mapping[str, int],
        frame: Recipe,
        stack: str,
        *,
        repeats: int = 1,
        start: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(config, parents, frame, stack)
        fixed_ends = config.ends == "fixed"
        self.slots = _layout(frame.host, parents, repeats, fixed_ends)
        self._ends = {0, len(self.slots) - 1} if fixed_ends else set[int]()
        self._free = [slot for slot in range(len(self.slots)) if slot not in self._ends]
        last = parents[frame.host] - 1
        # With fixed ends, the last slot of the layout has the host's last block already.
        self._host_slots = {slot for slot in range(last + 1) if not (fixed_ends and slot == last)}
        self._fewest, self._most = check_depth(
            config.layers, (len(self._ends) or 1, len(self._ends) + len(self._free))
        )
        self.max_depth = max(self._most, *parents.values())
        self._in, self._out = start or (1.0, 0.0)
        bound = 2.0 * max(1.0, abs(self._in), abs(self._out))
        scales: tuple[Gene, ...] = ()
        self._scale_of: ScaleOf = lambda values, before, slot: self._bounds[0]
        if self._bounds[0] < self._bounds[1]:
            coding = _by_slot if start is None else _matrix
            scales, self._scale_of = coding(self.slots, self._bounds)

        def indicator(slot: int) -> Gene:
            name = f"in.{self.slots[slot].name}"
            first = self._in if slot in self._host_slots else self._out
            if start is None:
                return Gene(name, "binary", 0.0, 1.0, first)
            return Gene(name, "real", -bound, bound, first, sigma=1.0, switch=True)

        self.genes = (*map(indicator, self._free), *scales)

    def decode(self, genome: Genome) -> Recipe:
        """Return the recipe of a genome, with its path repaired if it is too short or too long."""
        path, values = self._choose(genome[: len(self._free)]), genome[len(self._free) :]
        scales = (1.0, *(self._scale_of(values, *pair) for pair in pairwise(path)))
        slots = zip((self.slots[slot] for slot in path), scales, strict=True)
        return self._decoded(Hop(slot.parent, slot.layer, scale) for slot, scale in slots)

    def own_path(self, parent: str) -> Genome | None:
        """Return a genome of all blocks of a parent in order, without scales, if there is one."""
        depth = self._parents[parent]
        if self._ends:
            path = self._host_slots | self._ends if parent == self._frame.host else set()
        else:
            slots = enumerate(self.slots)
            path = {at for at, slot in slots if slot.parent == parent and not slot.turn}
        fits = len(path) == depth and self._fewest <= depth <= self._most
        if not fits or not self._is_unscaled(depth):
            return None
        indicators = (self._in if slot in path else self._out for slot in self._free)
        return (*indicators, *(gene.start for gene in self.genes[len(self._free) :]))

    def _choose(self, indicators: Sequence[float]) -> list[int]:
        """Return the slots of the path, ascending, after repair."""
        ranked = sorted(
            zip(indicators, self._free, strict=True),
            key=lambda item: (-item[0], item[1] not in self._host_slots, item[1]),
        )
        included = sum(indicator > 0.0 for indicator in indicators)
        ends = len(self._ends)
        count = min(max(included, self._fewest - ends), self._most - ends)
        return sorted([*self._ends, *(slot for _, slot in ranked[:count])])


def _layout(host: str, parents: Mapping[str, int], repeats: int, fixed_ends: bool) -> list[Slot]:
    order = [host, *(parent for parent in parents if parent != host)]
    blocks = [(parent, layer) for parent in order for layer in range(parents[parent])]
    slots = [
        Slot(parent, layer, block, turn)
        for turn in range(repeats)
        for block, (parent, layer) in enumerate(blocks)
    ]
    if fixed_ends and len(order) > 1:  # without other parents, the host's last block is the end
        last = parents[host] - 1
        slots.append(Slot(host, last, last, repeats))
    return slots


def _by_slot(
    slots: Sequence[Slot], bounds: tuple[float, float]
) -> tuple[tuple[Gene, ...], ScaleOf]:
    """Return a scale gene for each slot, used only if the path includes it (arXiv 2605.12326)."""
    # If the first slot of the layout is in a path, it comes first, where the scale is 1.
    genes = tuple(scale_gene(f"scale.{slot.name}", bounds) for slot in slots[1:])
    return genes, lambda values, before, slot: values[slot - 1]


def _matrix(slots: Sequence[Slot], bounds: tuple[float, float]) -> tuple[tuple[Gene, ...], ScaleOf]:
    """Return a gene W[i, j] for each pair of blocks: the scale where block j follows block i.

    Source: arXiv 2403.13187, section 3.2; the pairs that no path can have are left out here.
    """
    blocks = [slot.block for slot in slots]
    names = {slot.block: f"{slot.parent}[{slot.layer}]" for slot in slots}
    pairs = sorted({(one, two) for at, two in enumerate(blocks) for one in blocks[:at]})
    column = {pair: index for index, pair in enumerate(pairs)}
    genes = tuple(scale_gene(f"scale.{names[i]}->{names[j]}", bounds) for i, j in pairs)
    return genes, lambda values, before, slot: values[column[blocks[before], blocks[slot]]]


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
