"""The recipes of M2N2: crossovers of two models. There are no genes.

A crossover is a spherical interpolation between two models whose position changes at one point of
the depth (Abrantes et al. 2025, arXiv 2508.16204): t before the split, 1 - t from there on. The
authors split the vector of all weights anywhere; here the split is between embeddings, blocks and
head, each of which is one place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from evomerge.recipe import MEMBER, Layer, Recipe, Source
from evomerge.space.baselines import uniform_recipe
from evomerge.space.protocol import Gene, Genome


@dataclass(frozen=True)
class Mate:
    """One of the two models of a crossover.

    Attributes:
        reference: the reference of a parent, or `member:NUMBER`.
        recipe: how it is built.
    """

    reference: str
    recipe: Recipe


class CrossoverSpace:
    """Makes the recipes of crossovers, and of the baselines.

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

    @property
    def max_depth(self) -> int:
        """Number of blocks of every recipe."""
        return self._layers

    @property
    def places(self) -> int:
        """Number of places at which a crossover can be split: embeddings, each block, head."""
        return self._layers + 2

    def cross(self, first: Mate, second: Mate, split: int, t: float) -> Recipe:
        """Return the crossover of two models.

        Args:
            first: the model at position 0.
            second: the model at position 1.
            split: the first place with position 1 - t instead of t; 0 is the embeddings.
            t: position between the two models, from 0 to 1.
        """

        def layer(place: int) -> Layer:
            block = place - 1 if 0 < place <= self._layers else None
            sources = (Source(first.reference, block), Source(second.reference, block))
            return Layer("whole_slerp", sources, knobs={"t": t if place < split else 1 - t})

        places = [layer(place) for place in range(self.places)]
        members = {
            mate.reference: mate.recipe
            for mate in (first, second)
            if mate.reference.startswith(MEMBER)
        }
        return replace(
            self._frame,
            embeddings=places[0],
            layers={self._stack: tuple(places[1:-1])},
            head=places[-1],
            members=members,
        )

    def decode(self, genome: Genome) -> Recipe:
        """Return the even mixture of the first two parents; there are no genes to decode."""
        first, second = (Mate(item, self.baselines()[item]) for item in self.parents[:2])
        return self.cross(first, second, self.places // 2, 0.5)

    def baselines(self) -> dict[str, Recipe]:
        """Return each parent alone (by its reference) and the uniform merge (as `uniform`)."""

        def average(parents: Sequence[str]) -> Recipe:
            return uniform_recipe(parents, self._layers, self._stack, self._frame)

        alone = {parent: average([parent]) for parent in self.parents}
        return alone | {"uniform": average(self.parents)}

    def baseline_genomes(self) -> dict[str, Genome]:
        """Return nothing, since there are no genes."""
        return {}
