"""Sakana's space of paths, its structured form, and layer dropping.

All blocks of all parents are laid out in order, r times; every slot has an indicator, and scales
sit on the hops between the slots that are in. Sources: arXiv 2403.13187 section 3.2 (layout,
indicators, W), arXiv 2605.12326 (binary indicators, scales conditional on them).
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
    HopMatrix,
    HopNetwork,
    NoScales,
    ScaleCoding,
    Slot,
    SlotScales,
)
from evomerge.space.protocol import Gene, Genome

WIDEST_MATRIX = 1024
"""Largest number of hop genes for which `auto` takes the matrix instead of the network."""


class SlotSpace:
    """All blocks of all parents laid out in order, r times; a slot is in or out.

    Genome: one indicator a free slot, then the scale genes. A path that is too long loses its
    weakest slots, one that is too short gains the strongest that are out; equal strength favours
    the host's own pass, then earlier slots.

    Args:
        parents: parent -> number of its blocks; the host is laid out first, then in this order.
        frame: recipe that gives everything but the blocks of `stack` (host, embeddings, head).
        stack: name of the block stack, `model.layers`.
        repeats: how often the layout is repeated (r); T = M * r slots.
        indicators: `threshold` (a real gene, in when above 0) or `binary`.
        scales: range of the scales, or a number that all have.
        coding: `slot`, `matrix`, `network`, or `auto` (matrix or network by size).
        hidden: hidden units of the network.
        fixed_ends: the path starts with the host's first block and ends with its last.
        layers: fewest and most blocks of a path; None for no limit.
        start: in sigmas, where indicators of slots start that are in and out.

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
                f"space.start is {list(start)}; it must be [in, out] with in above 0 and out at "
                "most 0, in sigmas: a slot is in when its indicator is above 0."
            )
        self._parents = dict(parents)
        self._frame, self._stack = replace(frame, layers={}), stack
        self._slots = _layout(frame.host, parents, repeats, fixed_ends)
        self._ends = {0, len(self._slots) - 1} if fixed_ends else set[int]()
        self._free = [slot for slot in range(len(self._slots)) if slot not in self._ends]
        last = parents[frame.host] - 1
        self._own_pass = {slot for slot in range(last + 1) if not (fixed_ends and slot == last)}
        self._fewest, self._most = check_depth(
            layers, (len(self._ends) or 1, len(self._ends) + len(self._free))
        )
        self._in, self._out = (1.0, 0.0) if indicators == "binary" else start
        reach = 2.0 * max(1.0, *map(abs, start))
        self._indicators = tuple(
            Gene(
                f"in.{self._slots[slot].name}",
                "binary" if indicators == "binary" else "real",
                low=0.0 if indicators == "binary" else -reach,
                high=1.0 if indicators == "binary" else reach,
                start=self._in if slot in self._own_pass else self._out,
                sigma=None if indicators == "binary" else 1.0,
            )
            for slot in self._free
        )
        self._scales = _coding(self._slots, check_scales(scales), coding, hidden)

    @property
    def genes(self) -> Sequence[Gene]:
        """Indicators of the free slots, then scales."""
        return (*self._indicators, *self._scales.genes)

    @property
    def slots(self) -> Sequence[Slot]:
        """The layout, in order."""
        return self._slots

    def decode(self, genome: Genome) -> Recipe:
        """Return the recipe of a genome; too short and too long paths are repaired."""
        path = layers_of(hop for _, hop in self.walk(genome))
        options = {**self._frame.options, **self._scales.options(genome[len(self._free) :])}
        return replace(self._frame, layers={self._stack: path}, options=options)

    def encode(self, recipe: Recipe) -> Genome:
        """Return a genome of this path: each block in the earliest slot that it fits.

        Raises:
            RecipeError: the path does not fit the layout, its limits or its scales.
        """
        return self.retrace(path_in(recipe, self._frame, self._stack), recipe.options)[1]

    def walk(self, genome: Genome) -> list[tuple[int, Hop]]:
        """Return the chosen slots, in order, each with its hop."""
        cut = len(self._free)
        chosen = self._choose(genome[:cut])
        scales = self._scales.decode(genome[cut:], chosen)
        return [
            (slot, Hop(self._slots[slot].parent, self._slots[slot].layer, scale))
            for slot, scale in zip(chosen, scales, strict=True)
        ]

    def retrace(self, path: Path, options: Mapping[str, str]) -> tuple[list[int], Genome]:
        """Return slots that hold a path, and a genome that walks it.

        Raises:
            RecipeError: the path does not fit the layout, its limits or its scales.
        """
        if not self._fewest <= len(path) <= self._most:
            raise RecipeError(
                f"The path has {len(path)} blocks; this space allows {self._fewest} to "
                f"{self._most}."
            )
        chosen = self._place(path)
        marks = set(chosen)
        indicators = (self._in if slot in marks else self._out for slot in self._free)
        scales = self._scales.encode([hop.scale for hop in path], chosen, options)
        return chosen, (*indicators, *scales)

    def baselines(self) -> dict[str, Recipe]:
        """Every parent as it is."""
        return baselines_of(self._parents, self._stack, self._frame)

    def baseline_genomes(self) -> dict[str, Genome]:
        """Genomes of the baselines that are paths of this space."""
        return genomes_of(self)

    def _choose(self, strengths: Sequence[float]) -> list[int]:
        """Slots of the path, in order, after repair."""
        ranked = sorted(
            zip(strengths, self._free, strict=True),
            key=lambda item: (-item[0], item[1] not in self._own_pass, item[1]),
        )
        wanted = sum(strength > 0.0 for strength in strengths)
        ends = len(self._ends)
        count = min(max(wanted, self._fewest - ends), self._most - ends)
        return sorted([*self._ends, *(slot for _, slot in ranked[:count])])

    def _place(self, path: Path) -> list[int]:
        """Slots that hold the path, found from left to right.

        A subsequence that exists is always found by taking the earliest slot for each block.
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
                    f"Block {place} of the path ({hop.parent}, block {hop.layer}) has no place in "
                    f"this layout; more repeats, or free ends, may make one."
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
    """Return the space of one parent's paths with blocks left out: one binary gene a block."""
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
    if fixed_ends and len(order) > 1:  # a host alone ends the layout with its last block anyway
        last = parents[host] - 1
        slots.append(Slot(host, last, last, repeats))
    return slots


def _coding(
    slots: Sequence[Slot], scales: tuple[float, float] | float, coding: str, hidden: int
) -> ScaleCoding:
    if isinstance(scales, (int, float)) or scales[0] == scales[1]:
        return NoScales(scales if isinstance(scales, (int, float)) else scales[0])
    if coding == "slot":
        return SlotScales(slots, scales)
    if coding != "network":
        matrix = HopMatrix(slots, scales)
        if coding == "matrix" or len(matrix.genes) <= WIDEST_MATRIX:
            return matrix
    if not scales[0] <= 1.0 <= scales[1]:
        raise ConfigError(
            f"space.scales is {list(scales)}; a scale network starts at 1, so the range must "
            "contain 1."
        )
    return HopNetwork(slots, scales, hidden)
