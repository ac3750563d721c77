"""Slerp by the angle between two whole models, which natural niches merge by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from evomerge.merging.methods.method import Merge, Method
from evomerge.merging.methods.spherical import SLERP, arc_weights, cosine_of

if TYPE_CHECKING:
    from evomerge.merging.kernels.compiled import Array
    from evomerge.merging.kernels.noise import Noise


def prepare_whole_slerp(
    tensors: Sequence[Array], base: Array | None, noise: Sequence[Noise], *, reuse: bool
) -> Merge:
    """Prepare slerp by the angle between the two models, which the knob `cosine` gives.

    Without this knob, the tensor is taken to be all of the model.
    """
    from evomerge.merging.kernels.passes import products, write_sum

    def merge(
        sources: Sequence[Mapping[str, float]], knobs: Mapping[str, float], out: Array
    ) -> None:
        cosine = knobs.get("cosine")
        if cosine is None:
            cosine = cosine_of(products(tensors))
        write_sum(tensors, arc_weights(cosine, knobs["t"]), out)

    return merge


WHOLE_SLERP = Method(
    name="whole_slerp",
    title="slerp by the angle between the two whole models, not by that of each tensor",
    prepare=prepare_whole_slerp,
    knobs=SLERP.knobs,
    arrays=True,
    parents=(2, 2),
    base="none",
    paper="Abrantes et al. 2025, arXiv 2508.16204",
    whole=True,
    in_mergekit=False,
)
