"""Weighted sums of sources: `linear`, and `passthrough` for one source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from evomerge.errors import CandidateError
from evomerge.merging.methods.method import Knob, Merge, Method

if TYPE_CHECKING:
    from evomerge.merging.kernels.compiled import Array
    from evomerge.merging.kernels.noise import Noise


def normalized(weights: Sequence[float], switch: str | None = "normalize") -> list[float]:
    """Return the weights divided by their sum.

    Args:
        switch: knob of the method that turns this off; None if it has none.

    Raises:
        CandidateError: the absolute value of the sum is below 1e-8.
    """
    total = sum(weights)
    if abs(total) < 1e-8:
        raise CandidateError(
            f"The weights {list(weights)} sum to {total:g} and cannot be normalized; change a "
            f"weight{f' or set {switch} to false' if switch else ''}."
        )
    return [weight / total for weight in weights]


def prepare_linear(
    tensors: Sequence[Array], base: Array | None, noise: Sequence[Noise], *, reuse: bool
) -> Merge:
    """Prepare out = sum_i w_i x_i, with the weights divided by their sum if `normalize` is 1."""
    from evomerge.merging.kernels.passes import write_sum

    def merge(
        sources: Sequence[Mapping[str, float]], knobs: Mapping[str, float], out: Array
    ) -> None:
        weights = [source["weight"] for source in sources]
        write_sum(tensors, normalized(weights) if knobs["normalize"] else weights, out)

    return merge


def prepare_passthrough(
    tensors: Sequence[Array], base: Array | None, noise: Sequence[Noise], *, reuse: bool
) -> Merge:
    """Prepare out = scale x."""
    from evomerge.merging.kernels.passes import write_sum

    def merge(
        sources: Sequence[Mapping[str, float]], knobs: Mapping[str, float], out: Array
    ) -> None:
        write_sum(tensors, [sources[0]["scale"]], out)

    return merge


LINEAR = Method(
    name="linear",
    title="weighted average of the weights",
    prepare=prepare_linear,
    knobs=(
        Knob("weight", 1.0, -100, 100, "source", search=(0.0, 1.0), help="share of the source"),
        Knob("normalize", 1.0, 0, 1, "merge", "flag", help="divide the weights by their sum"),
    ),
    arrays=True,
    parents=(1, None),
    base="none",
    paper="Wortsman et al. 2022, arXiv 2203.05482",
)

PASSTHROUGH = Method(
    name="passthrough",
    title="one source unchanged, or multiplied by a factor",
    prepare=prepare_passthrough,
    knobs=(Knob("scale", 1.0, -100, 100, "source", help="factor on the weights"),),
    arrays=True,
    parents=(1, 1),
    base="none",
)
