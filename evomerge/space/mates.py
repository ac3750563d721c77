"""Spaces whose recipes merge earlier candidates. There are no genes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evomerge.recipe import MEMBER, Layer, Recipe
from evomerge.space.baselines import uniform_recipe
from evomerge.space.protocol import Gene, Genome


@dataclass(frozen=True)
class Mate:
    """One of the models that a child is made of.

    Attributes:
        reference: the reference of a parent, or `member:NUMBER`.
        recipe: how it is built.
    """

    reference: str
    recipe: Recipe


class MateSpace(ABC):
    """Makes the recipes of children of earlier candidates, and of the baselines.

    Args:
        parents: references of the parents; all have as many blocks.
        host: reference of the host.
        stack: prefix of the block stack (`model.layers`).
        layers: number of blocks.
        dtype: dtype of every candidate.
        seed: seed of the recipes.
    """

    genes: tuple[Gene, ...] = ()

    def __init__(
        self,
        *,
        parents: Sequence[str],
        host: str,
        stack: str,
        layers: int,
        dtype: str = "bfloat16",
        seed: int = 0,
    ) -> None:
        self.parents = tuple(parents)
        self._stack, self._layers = stack, layers
        nothing = Layer("", ())
        self._frame = Recipe(host, {}, nothing, nothing, dtype, seed=seed)

    @abstractmethod
    def child(self, origin: Mapping[str, Any], mates: Sequence[Mate]) -> Recipe:
        """Return the recipe of a child.

        Args:
            origin: how the mates are merged, as the strategy noted it.
            mates: the mates, in the order of the origin.

        Raises:
            KeyError: the origin lacks something.
            TypeError: something in it has the wrong type.
            ValueError: there is another number of mates than this space merges.
        """

    @abstractmethod
    def decode(self, genome: Genome) -> Recipe:
        """Return a child of the first parents; there are no genes to decode."""

    @property
    def max_depth(self) -> int:
        """Number of blocks of every recipe."""
        return self._layers

    @property
    def places(self) -> int:
        """Number of places in the depth of a model: embeddings, each block, head."""
        return self._layers + 2

    def baselines(self) -> dict[str, Recipe]:
        """Return each parent alone (by its reference) and the uniform merge (as `uniform`)."""

        def average(parents: Sequence[str]) -> Recipe:
            return uniform_recipe(parents, self._layers, self._stack, self._frame)

        alone = {parent: average([parent]) for parent in self.parents}
        return alone | {"uniform": average(self.parents)}

    def baseline_genomes(self) -> dict[str, list[Genome]]:
        """Return nothing, since there are no genes."""
        return {}

    def first_parents(self) -> list[Mate]:
        """Return the first two parents as mates."""
        baselines = self.baselines()
        return [Mate(item, baselines[item]) for item in self.parents[:2]]

    def merge(
        self,
        layer: Callable[[int, int | None], Layer],
        mates: Sequence[Mate],
        seed: int | None = None,
    ) -> Recipe:
        """Return the recipe whose layers a function gives.

        Args:
            layer: returns the layer of a place, which is block `block` or outside of the blocks;
                place 0 is the embeddings.
            mates: the models that the layers name.
            seed: the recipe's seed; None: that of the space.
        """
        first, *blocks, last = (
            layer(place, place - 1 if 0 < place <= self._layers else None)
            for place in range(self.places)
        )
        return replace(
            self._frame,
            embeddings=first,
            layers={self._stack: tuple(blocks)},
            head=last,
            members={
                mate.reference: mate.recipe for mate in mates if mate.reference.startswith(MEMBER)
            },
            seed=self._frame.seed if seed is None else seed,
        )
