"""Frankenmerges (such as Goliath-120B): paths of a few contiguous slices of the parents.

A slice is a parent, a first block and a last block. The slices of a path may overlap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from evomerge.errors import ConfigError, RecipeError
from evomerge.recipe import Recipe
from evomerge.space.paths.frame import baselines_of, check_depth, check_scales, genomes_of, path_in
from evomerge.space.paths.path import Hop, Path, layers_of
from evomerge.space.paths.scales import scale_in_range
from evomerge.space.protocol import Gene, Genome

Slice: TypeAlias = tuple[str, int, int, float]
"""Parent, first block, last block, and scale of the hidden state that enters the first block."""


class SliceSpace:
    """Paths of contiguous slices.

    Genome: the number n of slices. Then, for each possible slice: its parent, its first and last
    block (integers, in either order), and the scale of the hidden state that enters it, except for
    the first slice. Only the first n slices are used. What can have one value only is no gene.

    Decoding repairs paths outside of `layers`. If a path is too short, its slices are extended to
    the ends of their parents, the last slice first; then further slices are added. If it is too
    long, its slices lose their last blocks, the last slice first; each slice keeps at least one.

    Args:
        parents: parent -> number of its blocks.
        frame: recipe of everything except the path. The search starts at the slices that together
            are its host, but at first every parent of a slice is equally likely.
        stack: name of the block stack.
        slices: smallest and largest number of slices.
        scales: range of the scales, or one number for all scales.
        layers: smallest and largest number of blocks of a path; None for no limit.

    Raises:
        ConfigError: an argument is out of its range.
    """

    def __init__(
        self,
        parents: Mapping[str, int],
        frame: Recipe,
        *,
        stack: str = "model.layers",
        slices: tuple[int, int] = (2, 4),
        scales: tuple[float, float] | float = (0.5, 1.5),
        layers: tuple[int, int | None] = (1, None),
    ) -> None:
        host_depth = parents.get(frame.host, 0)
        if not 1 <= slices[0] <= slices[1] <= host_depth:
            raise ConfigError(
                f"space.slices is {list(slices)}; it must be [min, max] with 1 <= min <= max, and "
                f"at most {host_depth}, the blocks of the host {frame.host!r}."
            )
        self._parents, self._names = dict(parents), tuple(parents)
        self._frame, self._stack = replace(frame, layers={}), stack
        self._count = slices
        # Every genome must decode, even one whose slices are all of the shallowest parent.
        check_depth((layers[0], None), (slices[0], slices[1] * min(parents.values())))
        self._fewest, self._most = check_depth(
            layers, (slices[0], slices[1] * max(parents.values()))
        )
        checked = check_scales(scales)
        self._bounds = (checked, checked) if isinstance(checked, (int, float)) else checked
        self._scaled = self._bounds[0] < self._bounds[1]
        self.genes: Sequence[Gene] = self._make_genes(host_depth)

    @property
    def max_depth(self) -> int:
        """Largest number of blocks of a path or a parent."""
        return max(self._most, *self._parents.values())

    def decode(self, genome: Genome) -> Recipe:
        """Return the recipe of a genome."""
        values = {gene.name: value for gene, value in zip(self.genes, genome, strict=True)}
        wanted = round(values.get("slices", self._count[0]))
        count = min(max(wanted, self._count[0]), self._count[1], self._most)
        named = [self._slice(values, index) for index in range(self._count[1])]
        slices = self._shorten(self._grow(named, count))
        path = [
            Hop(parent, layer, scale if layer == first and index else 1.0)
            for index, (parent, first, last, scale) in enumerate(slices)
            for layer in range(first, last + 1)
        ]
        return replace(self._frame, layers={self._stack: layers_of(path)})

    def encode(self, recipe: Recipe) -> Genome:
        """Return a genome of the recipe's path.

        The path is cut into as few slices as possible. If these are fewer than the space allows,
        the longest ones are split.

        Raises:
            RecipeError: the path has a wrong number of blocks or slices, uses another parent, or
                has a scale outside of the range; or the recipe differs in more than the path.
        """
        path = path_in(recipe, self._frame, self._stack)
        if not self._fewest <= len(path) <= self._most:
            raise RecipeError(
                f"The path has {len(path)} blocks; this space allows {self._fewest} to "
                f"{self._most}."
            )
        for hop in path:
            if hop.layer >= self._parents.get(hop.parent, 0):
                raise RecipeError(
                    f"The path uses block {hop.layer} of {hop.parent!r}, which the parents of this "
                    "space do not have."
                )
        runs = self._runs(path)
        if len(runs) > self._count[1]:
            raise RecipeError(
                f"The path has {len(runs)} slices; this space allows {self._count[0]} to "
                f"{self._count[1]}."
            )
        values = {gene.name: gene.start for gene in self.genes}
        named = {"slices": float(len(runs))}
        for index, run in enumerate(runs):
            named |= {
                f"slice{index}.parent": float(self._names.index(run[0].parent)),
                f"slice{index}.first": float(run[0].layer),
                f"slice{index}.last": float(run[-1].layer),
            }
            if index:
                named[f"slice{index}.scale"] = scale_in_range(run[0].scale, self._bounds)
        values |= {name: value for name, value in named.items() if name in values}
        return tuple(values.values())

    def baselines(self) -> dict[str, Recipe]:
        """Return every parent as it is."""
        return baselines_of(self._parents, self._stack, self._frame)

    def baseline_genomes(self) -> dict[str, list[Genome]]:
        """Return the genomes of the parents whose own path is in this space."""
        return genomes_of(self)

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
            if self._scaled and index:
                low, high = self._bounds
                start = min(max(1.0, low), high)
                name = f"slice{index}.scale"
                genes.append(Gene(name, "real", low, high, start, (high - low) / 6))
        return tuple(genes)

    def _slice(self, values: Mapping[str, float], index: int) -> Slice:
        """Return the slice at an index, given the values of the genes by name."""
        chosen = values.get(f"slice{index}.parent", 0.0)
        parent = self._names[min(max(round(chosen), 0), len(self._names) - 1)]
        deepest = self._parents[parent] - 1
        ends = (values[f"slice{index}.{end}"] for end in ("first", "last"))
        one, two = (min(max(round(value), 0), deepest) for value in ends)
        scale = values.get(f"slice{index}.scale", self._bounds[0])
        return parent, min(one, two), max(one, two), scale

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

    def _runs(self, path: Path) -> list[Path]:
        """Return the contiguous runs of a path, split further if they are too few."""
        plain = self._bounds[0] <= 1.0 <= self._bounds[1]
        runs: list[list[Hop]] = []
        for hop in path:
            if runs and hop.scale == 1.0 and hop.follows(runs[-1][-1]):
                runs[-1].append(hop)
            else:
                runs.append([hop])
        if runs[0][0].scale != 1.0:
            raise RecipeError("The first block of the path has a scale; it must be 1.")
        while len(runs) < self._count[0]:
            longest = max(range(len(runs)), key=lambda index: len(runs[index]))
            run = runs[longest]
            if len(run) < 2 or not plain:
                raise RecipeError(
                    f"The path has {len(runs)} slices; this space allows {self._count[0]} to "
                    f"{self._count[1]}."
                )
            runs[longest : longest + 1] = [run[:1], run[1:]]
        return [tuple(run) for run in runs]
