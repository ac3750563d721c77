"""Methods that sparsify task vectors (differences from a base), combine them and add them back.

    out = base + lambda * consensus_i(w_i * sparsify_i(x_i - base))

The methods differ in how they sparsify a task vector (`sparsify`) and in the consensus: the sum, or
the sum of the changes of one elected sign (`elect`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from evomerge.merging.kernels import consensus
from evomerge.merging.kernels.compiled import Array
from evomerge.merging.kernels.passes import gradient_products, write_copy, write_sum
from evomerge.merging.methods.linear import normalized, weighted_slopes
from evomerge.merging.methods.method import (
    Knob,
    KnobKey,
    Method,
    Operands,
    Sources,
    Values,
    flag,
    weight_knob,
)
from evomerge.merging.methods.sparsify import (
    Bernoulli,
    Magnitude,
    MagnitudeOutliers,
    MagPrune,
    Sparsifier,
    row_length,
)


class _TaskVectors:
    """The prepared merge of a method of this file; `elect`: whether signs are elected."""

    def __init__(self, given: Operands, kind: type[Sparsifier], elect: bool) -> None:
        self._tensors, self._base = given.tensors, given.base
        self._is_whole, self._elect = kind is Sparsifier, elect
        self._row_length = row_length(given.base) if kind is MagPrune else 1
        self._sparsifiers = [
            kind(tensor, given.base, given.noise[i] if kind.random else None, reuse=given.reuse)
            for i, tensor in enumerate(given.tensors)
        ]

    def __call__(self, sources: Sources, knobs: Values, out: Array) -> None:
        weights = [source["weight"] for source in sources]
        if knobs["normalize"] and not self._elect:
            weights = normalized(weights)
        if self._is_whole:
            write_sum(self._tensors, weights, out, self._base, knobs["lambda"])
            return
        places = [place for place, weight in enumerate(weights) if weight]
        factors, changes = self._sparse(sources, knobs, places)
        if not factors:
            write_copy(self._base, out)
            return
        scale, normalize = knobs["lambda"], knobs["normalize"]
        how = self._votes(weights, factors, normalize)
        consensus.write_consensus(changes, out, self._base, scale=scale, elect=self._elect, **how)

    def slopes(self, sources: Sources, knobs: Values, gradient: Array) -> dict[KnobKey, float]:
        """Return the slopes by weights and lambda, where the same elements stay.

        Where signs are elected, those by weights are smoothed (`elected_products`). The slope by a
        weight of 0 is that to larger weights.
        """
        scale, normalize = knobs["lambda"], bool(knobs["normalize"])
        if self._is_whole:
            products = gradient_products(gradient, self._tensors, self._base)
            return weighted_slopes(products, sources, normalize, scale)
        factors, changes = self._sparse(sources, knobs, range(len(sources)))
        products = [0.0] * len(sources)
        if not self._elect:
            found = consensus.change_products(changes, gradient, len(factors), self._row_length)
            for (place, factor), product in zip(factors.items(), found, strict=True):
                products[place] = factor * product
            return weighted_slopes(products, sources, normalize, scale)
        weights = [source["weight"] for source in sources]
        how = self._votes(weights, factors, normalize)
        own, shared, merged = consensus.elected_products(changes, gradient, **how)
        slopes: dict[KnobKey, float] = {(i, "weight"): 0.0 for i in range(len(sources))}
        for (place, factor), product, mean in zip(factors.items(), own, shared, strict=True):
            away = mean if weights[place] >= 0 else -mean  # the divisor grows with the weight
            slopes[place, "weight"] = scale * (factor * product - (away if normalize else 0.0))
        return slopes | {(None, "lambda"): merged}

    def _votes(
        self, weights: Sequence[float], factors: Mapping[int, float], normalize: float
    ) -> dict[str, Any]:
        """Return what the loops of `consensus` take beside the changes."""
        return {
            "factors": [weights[place] * factor for place, factor in factors.items()],
            "divisors": [abs(weights[place]) for place in factors] if normalize else None,
            "row_length": self._row_length,
        }

    def _sparse(
        self, sources: Sources, knobs: Values, places: Iterable[int]
    ) -> tuple[dict[int, float], consensus.Changes]:
        """Return place -> factor of those sparse task vectors that have elements, and these."""
        sparse, rescale = {}, bool(knobs["rescale"])
        for place in places:
            found = self._sparsifiers[place].sparsify(sources[place], rescale=rescale)
            if found is not None:
                sparse[place] = found

        def changes(span: slice, values: Array) -> None:
            for (_, write), row in zip(sparse.values(), values, strict=True):
                write(span, row)

        return {place: factor for place, (factor, _) in sparse.items()}, changes


def _method(
    name: str, kind: type[Sparsifier], *, elect: bool = False, normalize: bool = False
) -> Method:
    density = Knob("density", 1.0, 0, 1, "source", search=(0.1, 1.0), help="share", has_slope=False)
    if kind is Sparsifier:  # all elements stay
        density = replace(density, low=1, search=None)
    return Method(
        name,
        f"sum of {kind.stays}{', with elected signs' if elect else ''}",
        lambda given: _TaskVectors(given, kind, elect),
        (
            weight_knob("factor on the task vector"),
            density,
            *kind.knobs,
            Knob("lambda", 1.0, -100, 100, help="factor on the merged task vector"),
            flag("normalize", normalize, "divide by the sum of the weights that count"),
            flag("rescale", kind.rescale, "keep the L1 norm of a sparsified task vector"),
            flag("int8_mask", False, "accepted, changes nothing"),
        ),
        parents=(1, None),
        base="required",
        paper=kind.paper,
        random=kind.random,
        cached_bytes=kind.cached_bytes,
        slopes=_TaskVectors.slopes,
        smoothed=("weight",) if elect else (),
    )


task_arithmetic = _method("task_arithmetic", Sparsifier)
ties = _method("ties", Magnitude, elect=True, normalize=True)
dare_linear = _method("dare_linear", Bernoulli)
dare_ties = _method("dare_ties", Bernoulli, elect=True)
della = _method("della", MagPrune, elect=True, normalize=True)
della_linear = _method("della_linear", MagPrune)
breadcrumbs = _method("breadcrumbs", MagnitudeOutliers)
breadcrumbs_ties = _method("breadcrumbs_ties", MagnitudeOutliers, elect=True)
