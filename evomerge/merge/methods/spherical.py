"""Interpolation along the sphere: slerp and its relatives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from evomerge.merge.method import Knob, Merge, Method
from evomerge.merge.methods.linear import write_sum

if TYPE_CHECKING:
    from torch import Tensor

    from evomerge.merge.noise import Noise

PARALLEL = 0.9995
"""Cosine beyond which two tensors count as parallel and are interpolated linearly."""


def prepare_slerp(
    tensors: Sequence[Tensor], base: Tensor | None, noise: Sequence[Noise], *, reuse: bool
) -> Merge:
    """Shoemake's spherical interpolation, the whole tensor as one vector."""
    from evomerge.merge.passes import products

    (xx, xy), (_, yy) = products(tensors)
    length = math.sqrt(xx) * math.sqrt(yy)
    cosine = xy / length if length > 0 else 1.0

    def merge(
        sources: Sequence[Mapping[str, float]], knobs: Mapping[str, float], out: Tensor
    ) -> None:
        write_sum(tensors, slerp_weights(cosine, knobs["t"]), out)

    return merge


def slerp_weights(cosine: float, t: float) -> tuple[float, float]:
    """Return the factors of the two ends at `t`, given the cosine of the angle between them."""
    if abs(cosine) > PARALLEL or t in (0, 1):
        return 1 - t, t
    angle = math.acos(cosine)
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)


SLERP = Method(
    name="slerp",
    title="arc from the first source (t = 0) to the second (t = 1)",
    prepare=prepare_slerp,
    knobs=(Knob("t", None, 0, 1, "merge", search=(0.0, 1.0), help="way along the arc"),),
    parents=(2, 2),
    base="none",
    paper="Shoemake 1985, doi 10.1145/325165.325242",
)
