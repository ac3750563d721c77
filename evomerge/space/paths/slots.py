"""Sakana AI's space of paths, its structured form, and layer dropping.

The layout lists all blocks of all parents in order, r times; each entry is a slot. An indicator for
each slot says whether the path includes it. Between two included slots, the hidden state is
multiplied by a scale. Sources: arXiv 2403.13187, section 3.2 (layout, indicators, W); arXiv
2605.12326 (binary indicators, scales that are used only if the slot is included).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from evomerge.errors import ConfigError, RecipeError
from evomerge.recipe import Recipe
from evomerge.space.paths.frame import baselines_of, check_depth, check_scales, genomes_of, path_in
from evomerge.space.paths.path import Hop, Path, layers_of
from evomerge.space.paths.scales import (
    FixedScale,
    ScaleCoding,
    ScaleMatrix,
    ScaleNetwork,
    Slot,
    SlotScales,
)
from evomerge.space.protocol import Gene, Genome

WIDEST_MATRIX = 1024
"""The coding `auto` uses a matrix of scales up to this number of genes, and a network above it."""


class SlotSpace:
    """Paths through a layout of all blocks of all parents in order, repeated r times.

    Genome: an indicator for each slot that may be included or left out, then the genes of the
    scales.

    Decoding repairs paths outside of `layers`. If a path is too long, the included slots with the
    lowest indicators are left out. If it is too short, the slots with the highest indicators among
    the others are included. Of slots with equal indicators, the blocks of the host in the first
    repetition come first, then the earlier slots.

    Args:
        parents: parent -> number of its blocks. The layout has the host first, then the others in
            this order.
        frame: recipe of everything except the path (host, embeddings, head, ...).
        stack: name of the block stack, `model.layers`.
        repeats: how often the layout is repeated (r). With M blocks in all parents together there
            are M * r slots, and one more for the last block if `fixed_ends` is set.
        indicators: `threshold` (a real gene; the slot is included if it is above 0) or `binary`.
        scales: range of the scales, or one number for all scales.
        coding: how genes encode the scales (see `evomerge.space.paths.scales`): `slot`, `matrix`,
            `network`, or `auto` (matrix or network, by the number of genes).
        hidden: number of hidden units of the network.
        fixed_ends: whether every path starts with the host's first block and ends with its last.
        layers: smallest and largest number of blocks of a path; None for no limit.
        start: start values of `threshold` indicators, in sigmas (sigma is 1): one for the blocks of
            the host in the first repetition, one for all other slots.

    Raises:
        ConfigError: an argument is out of its range.
    """

    def __init__(
        self,
        parents: Mapping[str, int],
        frame: Recipe,
        *,
        stack: str = "model.layers",
        repeats: int = 2,
        indicators: Literal["threshold", "binary"] = "binary",
        scales: tuple[float, float] | float = (0.5, 1.5),
        coding: Literal["slot", "matrix", "network", "auto"] = "slot",
        hidden: int = 8,
        fixed_ends: bool = True,
        layers: tuple[int, int | None] = (1, None),
        start: tuple[float, float] = (1.0, -1.0),
    ) -> None:
        if frame.host not in parents:
            raise ConfigError(
                f"space.host is {frame.host!r}; it must be one of {', '.join(parents)}."
            )
        if repeats < 1:
            raise ConfigError(f"space.repeats is {repeats}; it must be at least 1.")
        if not start[0] > 0 >= start[1]:
            raise ConfigError(
                f"space.start is {list(start)}; it must be [included, left out], two numbers in "
                "sigmas, the first above 0 and the second at most 0, because a path includes the "
                "slots whose indicators are above 0."
            )
        self._parents = dict(parents)
        self._frame, self._stack = replace(frame, layers={}), stack
        self._slots = _layout(frame.host, parents, repeats, fixed_ends)
        self._ends = {0, len(self._slots) - 1} if fixed_ends else set[int]()
        self._free = [slot for slot in range(len(self._slots)) if slot not in self._ends]
        last = parents[frame.host] - 1
        # The search starts at the host's own blocks. With fixed ends, the last slot of the layout
        # has the host's last block already.
        self._host_slots = {slot for slot in range(last + 1) if not (fixed_ends and slot == last)}
        self._fewest, self._most = check_depth(
            layers, (len(self._ends) or 1, len(self._ends) + len(self._free))
        )
        self._in, self._out = (1.0, 0.0) if indicators == "binary" else start
        bound = 2.0 * max(1.0, *map(abs, start))
        self._indicators = tuple(
            Gene(
                f"in.{self._slots[slot].name}",
                "binary" if indicators == "binary" else "real",
                low=0.0 if indicators == "binary" else -bound,
                high=1.0 if indicators == "binary" else bound,
                start=self._in if slot in self._host_slots else self._out,
                sigma=None if indicators == "binary" else 1.0,
                switch=indicators == "threshold",
            )
            for slot in self._free
        )
        self._scales = _coding(self._slots, check_scales(scales), coding, hidden)

    @property
    def genes(self) -> Sequence[Gene]:
        """The indicators, then the genes of the scales."""
        return (*self._indicators, *self._scales.genes)

    @property
    def max_depth(self) -> int:
        """Largest number of blocks of a path or a parent."""
        return max(self._most, *self._parents.values())

    @property
    def slots(self) -> Sequence[Slot]:
        """The layout, in order."""
        return self._slots

    def decode(self, genome: Genome) -> Recipe:
        """Return the recipe of a genome, with its path repaired if it is too short or too long."""
        path = layers_of(hop for _, hop in self.hops(genome))
        options = {**self._frame.options, **self._scales.options(genome[len(self._free) :])}
        return replace(self._frame, layers={self._stack: path}, options=options)

    def encode(self, recipe: Recipe) -> Genome:
        """Return a genome of the recipe's path; each block takes the earliest slot possible.

        Raises:
            RecipeError: the path is not in this space, or the recipe differs in more than the path.
        """
        path = path_in(recipe, self._frame, self._stack)
        return self.genome_of_path(path, recipe.options)

    def hops(self, genome: Genome) -> list[tuple[int, Hop]]:
        """Return the path of a genome, each hop with the index of its slot."""
        indicators, scale_values = genome[: len(self._free)], genome[len(self._free) :]
        chosen = self._choose(indicators)
        scales = self._scales.decode(scale_values, chosen)
        return [
            (slot, Hop(self._slots[slot].parent, self._slots[slot].layer, scale))
            for slot, scale in zip(chosen, scales, strict=True)
        ]

    def genome_of_path(self, path: Path, options: Mapping[str, str]) -> Genome:
        """Return a genome that decodes to a path.

        Args:
            path: the path.
            options: options of its recipe; a scale network is one.

        Raises:
            RecipeError: the path is not in this space: it has too few or too many blocks, they are
                not in the order of the layout, or its scales cannot be encoded.
        """
        if not self._fewest <= len(path) <= self._most:
            raise RecipeError(
                f"The path has {len(path)} blocks; this space allows {self._fewest} to "
                f"{self._most}."
            )
        chosen = self._slots_of(path)
        included = set(chosen)
        indicators = (self._in if slot in included else self._out for slot in self._free)
        scales = self._scales.encode([hop.scale for hop in path], chosen, options)
        return (*indicators, *scales)

    def baselines(self) -> dict[str, Recipe]:
        """Return every parent as it is."""
        return baselines_of(self._parents, self._stack, self._frame)

    def baseline_genomes(self) -> dict[str, list[Genome]]:
        """Return the genomes of the parents whose own path is in this space."""
        return genomes_of(self)

    def _choose(self, indicators: Sequence[float]) -> list[int]:
        """Return the slots of the path, ascending, after repair."""
        ranked = sorted(
            zip(indicators, self._free, strict=True),
            key=lambda item: (-item[0], item[1] not in self._host_slots, item[1]),
        )
        wanted = sum(indicator > 0.0 for indicator in indicators)
        ends = len(self._ends)
        count = min(max(wanted, self._fewest - ends), self._most - ends)
        return sorted([*self._ends, *(slot for _, slot in ranked[:count])])

    def _slots_of(self, path: Path) -> list[int]:
        """Return slots whose blocks are those of the path, ascending.

        Each block takes the earliest slot that is left. If there is any solution, this finds one.
        """
        chosen: list[int] = []
        slot = 0
        last = len(self._slots) - 1
        for place, hop in enumerate(path):
            ending = bool(self._ends) and place == len(path) - 1
            stop = last + 1 if ending or not self._ends else last
            slot = max(slot, last) if ending else slot
            while slot < stop and not self._holds(slot, hop):
                slot += 1
            if slot >= stop or (self._ends and place == 0 and slot != 0):
                raise RecipeError(
                    f"Block {place} of the path ({hop.parent}, block {hop.layer}) has no slot in "
                    "this layout; a larger space.repeats, or space.ends: free, may help."
                )
            chosen.append(slot)
            slot += 1
        if self._ends and len(chosen) < len(self._ends):
            raise RecipeError("The path must start and end with the host's first and last block.")
        return chosen

    def _holds(self, slot: int, hop: Hop) -> bool:
        return (self._slots[slot].parent, self._slots[slot].layer) == (hop.parent, hop.layer)


def dropping(
    host: str,
    depth: int,
    frame: Recipe,
    *,
    stack: str = "model.layers",
    scales: tuple[float, float] | float = 1.0,
    fixed_ends: bool = True,
    layers: tuple[int, int | None] = (1, None),
) -> SlotSpace:
    """Return the space of one parent with blocks left out: a binary gene for each block.

    Args:
        host: reference of the parent.
        depth: number of its blocks.
        frame: recipe of everything except the path.
        stack: name of the block stack.
        scales: range of the scales, or one number for all scales.
        fixed_ends: whether the first and the last block are always included.
        layers: smallest and largest number of blocks of a path; None for no limit.

    Raises:
        ConfigError: an argument is out of its range.
    """
    return SlotSpace(
        {host: depth},
        frame,
        stack=stack,
        repeats=1,
        scales=scales,
        fixed_ends=fixed_ends,
        layers=layers,
    )


def _layout(host: str, parents: Mapping[str, int], repeats: int, fixed_ends: bool) -> list[Slot]:
    order = [host, *(parent for parent in parents if parent != host)]
    slots: list[Slot] = []
    for turn in range(repeats):
        block = 0
        for parent in order:
            for layer in range(parents[parent]):
                slots.append(Slot(parent, layer, block, turn))
                block += 1
    if fixed_ends and len(order) > 1:  # without other parents, the host's last block is the end
        last = parents[host] - 1
        slots.append(Slot(host, last, last, repeats))
    return slots


def _coding(
    slots: Sequence[Slot], scales: tuple[float, float] | float, coding: str, hidden: int
) -> ScaleCoding:
    if isinstance(scales, (int, float)) or scales[0] == scales[1]:
        return FixedScale(scales if isinstance(scales, (int, float)) else scales[0])
    if coding == "slot":
        return SlotScales(slots, scales)
    if coding != "network":
        matrix = ScaleMatrix(slots, scales)
        if coding == "matrix" or len(matrix.genes) <= WIDEST_MATRIX:
            return matrix
    if not scales[0] <= 1.0 <= scales[1]:
        raise ConfigError(
            f"space.scales is {list(scales)}; a scale network starts at 1, so the range must "
            "contain 1."
        )
    return ScaleNetwork(slots, scales, hidden)
