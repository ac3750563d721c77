"""The recipes of CycleQD: weighted means of the task vectors of earlier candidates. No genes.

A child is base + sum_i w_i (mate_i - base) / sum_i w_i. A mutation adds to each matrix a random
share of each singular component of the task vector of one parent, the expert (Kuroki et al. 2025,
arXiv 2410.14735); see `evomerge.merging.methods.svd_mutation`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evomerge.recipe import Layer, Recipe, Source
from evomerge.space.mates import Mate, MateSpace
from evomerge.space.protocol import Genome


class TaskVectorSpace(MateSpace):
    """Makes the recipes of children by task vectors, and of the baselines.

    Args:
        base: reference of the model that task vectors are measured from.
        more: see `MateSpace`.
    """

    def __init__(self, *, base: str, **more: Any) -> None:
        super().__init__(**more)
        self._base = base

    def child(self, origin: Mapping[str, Any], mates: Sequence[Mate]) -> Recipe:
        """Return the child that an origin describes.

        `{"weights": [1.01, 0.98], "expert": "zoo:maths", "mutation": 0.1, "seed": 7}`: the weights
        of the mates, and the mutation, if there is one.
        """
        expert = origin.get("expert")
        if expert is not None and expert not in self.parents:
            raise ValueError(f"{expert!r} is no parent")
        knobs = [
            (mate.reference, {"weight": float(weight)})
            for mate, weight in zip(mates, origin["weights"], strict=True)
        ]
        if expert is not None:
            knobs.append((expert, {"weight": 0.0, "mutation": float(origin["mutation"])}))

        def layer(place: int, block: int | None) -> Layer:
            return Layer(
                "svd_mutation",
                tuple(Source(reference, block, own) for reference, own in knobs),
                base=Source(self._base, block),
                knobs={"normalize": 1.0},
            )

        return self.merge(layer, mates, None if expert is None else int(origin["seed"]))

    def decode(self, genome: Genome) -> Recipe:
        """Return the mean of the first two parents, mutated; there are no genes to decode."""
        mutation = {"expert": self.parents[0], "mutation": 1.0, "seed": 0}
        return self.child({"weights": [1.0, 1.0], **mutation}, self.first_parents())
