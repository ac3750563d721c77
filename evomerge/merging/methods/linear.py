"""Weighted sums of sources: `linear`, and `passthrough` for one source."""

from __future__ import annotations

from collections.abc import Sequence

from evomerge.errors import CandidateError
from evomerge.merging.kernels.compiled import Array
from evomerge.merging.kernels.passes import write_sum
from evomerge.merging.methods.method import (
    Knob,
    Merge,
    Operands,
    Sources,
    Values,
    flag,
    method,
    weight_knob,
)


def normalized(weights: Sequence[float], switch: str | None = "normalize") -> list[float]:
    """Return the weights divided by their sum; `switch` is the knob that turns this off, if any.

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


@method(
    "weighted average of the weights",
    weight_knob("share of the source"),
    flag("normalize", True, "divide the weights by their sum"),
    parents=(1, None),
    paper="Wortsman et al. 2022, arXiv 2203.05482",
)
def linear(given: Operands) -> Merge:
    """Prepare out = sum_i w_i x_i, with the weights divided by their sum if `normalize` is 1."""

    def merge(sources: Sources, knobs: Values, out: Array) -> None:
        weights = [source["weight"] for source in sources]
        write_sum(given.tensors, normalized(weights) if knobs["normalize"] else weights, out)

    return merge


@method(
    "one source unchanged, or multiplied by a factor",
    Knob("scale", 1.0, -100, 100, "source", help="factor on the weights"),
    parents=(1, 1),
)
def passthrough(given: Operands) -> Merge:
    """Prepare out = scale x."""

    def merge(sources: Sources, knobs: Values, out: Array) -> None:
        write_sum(given.tensors, [sources[0]["scale"]], out)

    return merge
