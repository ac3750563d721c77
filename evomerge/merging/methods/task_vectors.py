"""Methods that sparsify task vectors (differences from a base), combine them and add them back.

    out = base + lambda * consensus_i(w_i * sparsify_i(x_i - base))

The methods differ in how they sparsify a task vector (`sparsify`) and in the consensus: the sum, or
the sum of the changes of one elected sign (`elect`).
"""

from __future__ import annotations

from evomerge.merging.kernels.compiled import Array
from evomerge.merging.kernels.consensus import write_consensus
from evomerge.merging.kernels.passes import gradient_products, write_copy, write_sum
from evomerge.merging.methods.linear import normalized, weighted_slopes
from evomerge.merging.methods.method import (
    Knob,
    KnobKey,
    Merge,
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


def _prepare(given: Operands, kind: type[Sparsifier], elect: bool) -> Merge:
    tensors, base = given.tensors, given.base
    sparsifiers = [
        kind(tensor, base, given.noise[i] if kind.random else None, reuse=given.reuse)
        for i, tensor in enumerate(tensors)
    ]

    def merge(sources: Sources, knobs: Values, out: Array) -> None:
        weights = [source["weight"] for source in sources]
        if knobs["normalize"] and not elect:
            weights = normalized(weights)
        if kind is Sparsifier:
            write_sum(tensors, weights, out, base, knobs["lambda"])
            return
        sparse = [
            item.sparsify(source, rescale=bool(knobs["rescale"])) if weight else None
            for item, source, weight in zip(sparsifiers, sources, weights, strict=True)
        ]
        used = [(item, weight) for item, weight in zip(sparse, weights, strict=True) if item]
        if not used:
            write_copy(base, out)
            return

        def changes(span: slice, values: Array) -> None:
            for ((_, write), _), row in zip(used, values, strict=True):
                write(span, row)

        write_consensus(
            changes,
            out,
            base,
            factors=[weight * factor for (factor, _), weight in used],
            scale=knobs["lambda"],
            elect=elect,
            divisors=[abs(weight) for _, weight in used] if knobs["normalize"] else None,
            row_length=row_length(base) if kind is MagPrune else 1,
        )

    return merge


def _slopes(
    given: Operands, sources: Sources, knobs: Values, gradient: Array
) -> dict[KnobKey, float]:
    """Return the slopes of task arithmetic."""
    products = gradient_products(gradient, given.tensors, given.base)
    return weighted_slopes(products, sources, bool(knobs["normalize"]), knobs["lambda"])


def _method(
    name: str, kind: type[Sparsifier], *, elect: bool = False, normalize: bool = False
) -> Method:
    """Return a method of this file; `elect` is whether signs are elected as in TIES."""
    density = Knob(
        "density", 1.0, 0, 1, "source", search=(0.1, 1.0), help="share that stays", has_slope=False
    )
    if kind is Sparsifier:
        density = Knob("density", 1.0, 1, 1, "source", help="all elements stay", has_slope=False)
    return Method(
        name,
        f"sum of {kind.stays}{', with elected signs' if elect else ''}",
        lambda given: _prepare(given, kind, elect),
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
        slopes=_slopes if kind is Sparsifier else None,
    )


task_arithmetic = _method("task_arithmetic", Sparsifier)
ties = _method("ties", Magnitude, elect=True, normalize=True)
dare_linear = _method("dare_linear", Bernoulli)
dare_ties = _method("dare_ties", Bernoulli, elect=True)
della = _method("della", MagPrune, elect=True, normalize=True)
della_linear = _method("della_linear", MagPrune)
breadcrumbs = _method("breadcrumbs", MagnitudeOutliers)
breadcrumbs_ties = _method("breadcrumbs_ties", MagnitudeOutliers, elect=True)
