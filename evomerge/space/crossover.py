"""The recipes of M2N2: crossovers of two models. There are no genes.

A crossover is a spherical interpolation between two models whose position changes at one point of
the depth (Abrantes et al. 2025, arXiv 2508.16204): t before the split, 1 - t from there on. The
authors split the vector of all weights anywhere; here the split is between embeddings, blocks and
head, each of which is one place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evomerge.recipe import Layer, Recipe, Source
from evomerge.space.mates import Mate, MateSpace
from evomerge.space.protocol import Genome


class CrossoverSpace(MateSpace):
    """Makes the recipes of crossovers, and of the baselines."""

    def child(self, origin: Mapping[str, Any], mates: Sequence[Mate]) -> Recipe:
        """Return the crossover that an origin describes: `{"split": 3, "t": 0.25}`."""
        first, second = mates
        return self.cross(first, second, int(origin["split"]), float(origin["t"]))

    def cross(self, first: Mate, second: Mate, split: int, t: float) -> Recipe:
        """Return the crossover of two models.

        Args:
            first: the model at position 0.
            second: the model at position 1.
            split: the first place with position 1 - t instead of t; 0 is the embeddings.
            t: position between the two models, from 0 to 1.
        """

        def layer(place: int, block: int | None) -> Layer:
            sources = (Source(first.reference, block), Source(second.reference, block))
            return Layer("whole_slerp", sources, knobs={"t": t if place < split else 1 - t})

        return self.merge(layer, (first, second))

    def decode(self, genome: Genome) -> Recipe:
        """Return the even mixture of the first two parents; there are no genes to decode."""
        first, second = self.first_parents()
        return self.cross(first, second, self.places // 2, 0.5)
