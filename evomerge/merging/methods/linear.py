"""Weighted sums of sources: `linear`, and `passthrough` for one source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evomerge.errors import CandidateError
from evomerge.merging.kernels.compiled import Array
from evomerge.merging.kernels.passes import gradient_products, write_sum
from evomerge.merging.methods.method import (
    Knob,
    KnobKey,
    Merge,
    Operands,
    Sources,
    Values,
    flag,
    method,
    weight_knob,
)


def normalized(weights: Sequence[float], switch: str | None = "normalize") -> list[float]:
    """Return the weights divided by their sum; `CandidateError` if that is about 0 (1e-8).

    `switch` is the knob that turns this off, if any.
    """
    total = sum(weights)
    if abs(total) < 1e-8:
        raise CandidateError(
            f"The weights {list(weights)} sum to {total:g} and cannot be normalized; change a "
            f"weight{f' or set {switch} to false' if switch else ''}."
        )
    return [weight / total for weight in weights]


def weighted_slopes(
    products: Sequence[float], sources: Sources, normalize: bool, scale: float = 1.0
) -> dict[KnobKey, float]:
    """Return the slopes by the weights of scale sum_i w_i x_i, and by the scale as `lambda`.

    `products` are <gradient, x_i>; with `normalize` the weights are divided by their sum.
    """
    weights = [source["weight"] for source in sources]
    total, shares = (sum(weights), normalized(weights)) if normalize else (1.0, weights)
    merged = sum(share * product for share, product in zip(shares, products, strict=True))
    shift = merged if normalize else 0.0  # a larger weight takes from the shares of all others
    slopes: dict[KnobKey, float] = {(None, "lambda"): merged}
    for place, product in enumerate(products):
        slopes[place, "weight"] = scale * (product - shift) / total
    return slopes


@dataclass(frozen=True)
class _Average:
    """The prepared merge of `linear`."""

    tensors: Sequence[Array]

    def __call__(self, sources: Sources, knobs: Values, out: Array) -> None:
        weights = [source["weight"] for source in sources]
        write_sum(self.tensors, normalized(weights) if knobs["normalize"] else weights, out)

    def slopes(self, sources: Sources, knobs: Values, gradient: Array) -> dict[KnobKey, float]:
        products = gradient_products(gradient, self.tensors)
        return weighted_slopes(products, sources, bool(knobs["normalize"]))


@method(
    "weighted average of the weights",
    weight_knob("share of the source"),
    flag("normalize", True, "divide the weights by their sum"),
    parents=(1, None),
    paper="Wortsman et al. 2022, arXiv 2203.05482",
    slopes=_Average.slopes,
)
def linear(given: Operands) -> Merge:
    """Prepare out = sum_i w_i x_i, with the weights divided by their sum if `normalize` is 1."""
    return _Average(given.tensors)


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
