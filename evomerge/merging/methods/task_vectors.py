"""Methods that sparsify task vectors (differences from a base), combine them and add them back.

    out = base + lambda * consensus_i(w_i * sparsify_i(x_i - base))

The nine methods differ in how they sparsify a task vector (`merge/kernels/sparsify.py`) and in the
consensus (`merge/kernels/consensus.py`): the sum, or the sum of the changes of one elected sign.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

from evomerge.merging.methods.linear import normalized
from evomerge.merging.methods.method import Knob, Merge, Method

if TYPE_CHECKING:
    from evomerge.merging.kernels.compiled import Array
    from evomerge.merging.kernels.noise import Noise

SparsifierName = Literal["KeepAll", "Magnitude", "MagnitudeOutliers", "Bernoulli", "MagPrune"]

_RANDOM = ("Bernoulli", "MagPrune")


def prepare_task_vectors(
    tensors: Sequence[Array],
    base: Array | None,
    noise: Sequence[Noise],
    *,
    reuse: bool,
    sparsifier: SparsifierName,
    elect: bool,
) -> Merge:
    """Prepare a merge by any method of this file.

    Args:
        tensors: the sources.
        base: what task vectors are measured from.
        noise: the random numbers of each source; only the random sparsifiers use them.
        reuse: whether the result will be called for many candidates.
        sparsifier: name of a class in `merge/kernels/sparsify.py`.
        elect: whether signs are elected as in TIES; otherwise all changes are summed.
    """
    from evomerge.merging.kernels import sparsify
    from evomerge.merging.kernels.consensus import write_consensus
    from evomerge.merging.kernels.passes import write_copy, write_sum
    from evomerge.merging.kernels.task_vector import TaskVector

    assert base is not None
    kind: type[sparsify.Sparsifier] = getattr(sparsify, sparsifier)
    vectors = [TaskVector(tensor, base) for tensor in tensors]
    sparsifiers = [
        kind(vector, noise[i] if sparsifier in _RANDOM else None, reuse=reuse)
        for i, vector in enumerate(vectors)
    ]
    row_length = vectors[0].row_length if sparsifier == "MagPrune" else 1

    def merge(
        sources: Sequence[Mapping[str, float]], knobs: Mapping[str, float], out: Array
    ) -> None:
        weights = [source["weight"] for source in sources]
        if knobs["normalize"] and not elect:
            weights = normalized(weights)
        if sparsifier == "KeepAll":
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
            row_length=row_length,
        )

    return merge


def _method(
    name: str,
    title: str,
    paper: str,
    sparsifier: SparsifierName,
    *,
    elect: bool,
    normalize: bool,
    rescale: bool,
    more: tuple[Knob, ...] = (),
    cached_bytes: float = 0.0,
) -> Method:
    sparse = sparsifier != "KeepAll"
    density = Knob(
        "density",
        1.0,
        0 if sparse else 1,
        1,
        "source",
        search=(0.1, 1.0) if sparse else None,
        help="share of the task vector's elements that stay" if sparse else "all elements stay",
    )
    return Method(
        name=name,
        title=title,
        prepare=partial(prepare_task_vectors, sparsifier=sparsifier, elect=elect),
        knobs=(
            Knob(
                "weight",
                1.0,
                -100,
                100,
                "source",
                search=(0.0, 1.0),
                help="factor on the task vector",
            ),
            density,
            *more,
            Knob("lambda", 1.0, -100, 100, "merge", help="factor on the merged task vector"),
            Knob(
                "normalize",
                float(normalize),
                0,
                1,
                "merge",
                "flag",
                help="divide by the sum of the weights that count",
            ),
            Knob(
                "rescale",
                float(rescale),
                0,
                1,
                "merge",
                "flag",
                help="keep the L1 norm of a sparsified task vector",
            ),
            Knob("int8_mask", 0.0, 0, 1, "merge", "flag", help="accepted, changes nothing"),
        ),
        arrays=True,
        parents=(1, None),
        base="required",
        paper=paper,
        random=sparsifier in _RANDOM,
        cached_bytes=cached_bytes,
    )


_EPSILON = Knob(
    "epsilon",
    0.15,
    0,
    1,
    "source",
    help="the probability to stay is density - epsilon to density + epsilon",
)
_GAMMA = Knob("gamma", 0.01, 0, 1, "source", help="share of the largest changes that is dropped")

TASK_ARITHMETIC = _method(
    "task_arithmetic",
    "sum of task vectors",
    "Ilharco et al. 2023, arXiv 2212.04089",
    "KeepAll",
    elect=False,
    normalize=False,
    rescale=False,
)
TIES = _method(
    "ties",
    "sum of the largest changes, with elected signs",
    "Yadav et al. 2023, arXiv 2306.01708",
    "Magnitude",
    elect=True,
    normalize=True,
    rescale=False,
    cached_bytes=4.0,
)
DARE_LINEAR = _method(
    "dare_linear",
    "sum of a random share of each task vector",
    "Yu et al. 2024, arXiv 2311.03099",
    "Bernoulli",
    elect=False,
    normalize=False,
    rescale=True,
    cached_bytes=2.0,
)
DARE_TIES = _method(
    "dare_ties",
    "sum of a random share of each task vector, with elected signs",
    "Yu et al. 2024, arXiv 2311.03099",
    "Bernoulli",
    elect=True,
    normalize=False,
    rescale=True,
    cached_bytes=2.0,
)
DELLA = _method(
    "della",
    "sum of a random share of each task vector, large changes likelier, with elected signs",
    "Deep et al. 2024, arXiv 2406.11617",
    "MagPrune",
    elect=True,
    normalize=True,
    rescale=True,
    more=(_EPSILON,),
    cached_bytes=4.0,
)
DELLA_LINEAR = _method(
    "della_linear",
    "sum of a random share of each task vector, large changes likelier",
    "Deep et al. 2024, arXiv 2406.11617",
    "MagPrune",
    elect=False,
    normalize=False,
    rescale=True,
    more=(_EPSILON,),
    cached_bytes=4.0,
)
BREADCRUMBS = _method(
    "breadcrumbs",
    "sum of the changes that are neither among the largest nor the smallest",
    "Davari and Belilovsky 2023, arXiv 2312.06795",
    "MagnitudeOutliers",
    elect=False,
    normalize=False,
    rescale=False,
    more=(_GAMMA,),
    cached_bytes=4.0,
)
BREADCRUMBS_TIES = _method(
    "breadcrumbs_ties",
    "sum of the changes that are neither among the largest nor the smallest, with elected signs",
    "Davari and Belilovsky 2023, arXiv 2312.06795",
    "MagnitudeOutliers",
    elect=True,
    normalize=False,
    rescale=False,
    more=(_GAMMA,),
    cached_bytes=4.0,
)
