"""Methods that work on the task vectors of a weight matrix as a whole: TSV-M, Iso-C, WUDI.

    out = base + lambda * merged(x_1 - base, ..., x_T - base)

They merge matrices, also each matrix of a tensor with three dimensions (experts). Other tensors
(norms, biases, matrices of one row or column, convolutions) get the mean of the task vectors, and
so do embeddings and the head, as in the authors' code for language models. See
`evomerge.merging.kernels.spectral` for the formulas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from evomerge.merging.methods.cost import copies
from evomerge.merging.methods.method import Knob, Merge, Method

if TYPE_CHECKING:
    from evomerge.merging.kernels.compiled import Array
    from evomerge.merging.kernels.noise import Noise
    from evomerge.merging.kernels.spectral import Combine


def prepare_mean_task_vector(
    tensors: Sequence[Array], base: Array | None, noise: Sequence[Noise], *, reuse: bool
) -> Merge:
    """Prepare out = base + lambda * (mean of the task vectors)."""
    from evomerge.merging.kernels.passes import write_sum

    def merge(
        sources: Sequence[Mapping[str, float]], knobs: Mapping[str, float], out: Array
    ) -> None:
        write_sum(tensors, [1 / len(tensors)] * len(tensors), out, base, knobs["lambda"])

    return merge


def prepare_tsv(
    tensors: Sequence[Array], base: Array | None, noise: Sequence[Noise], *, reuse: bool
) -> Merge:
    """Prepare base + lambda * U S V^T; see `joined_singular_vectors`."""
    from evomerge.merging.kernels.spectral import joined_singular_vectors

    return _prepare(tensors, base, joined_singular_vectors, smallest=max(2, len(tensors)))


def prepare_iso_c(
    tensors: Sequence[Array], base: Array | None, noise: Sequence[Noise], *, reuse: bool
) -> Merge:
    """Prepare base + lambda * (the sum with equal singular values); see `isotropic`."""
    from evomerge.merging.kernels.spectral import isotropic

    return _prepare(tensors, base, isotropic)


def prepare_wudi_ridge(
    tensors: Sequence[Array], base: Array | None, noise: Sequence[Noise], *, reuse: bool
) -> Merge:
    """Prepare base + lambda * X; see `least_interference`."""
    from evomerge.merging.kernels.spectral import least_interference

    last: dict[float, Merge] = {}

    def merge(
        sources: Sequence[Mapping[str, float]], knobs: Mapping[str, float], out: Array
    ) -> None:
        ridge = knobs["ridge"]
        if ridge not in last:
            last.clear()
            last[ridge] = _prepare(tensors, base, partial(least_interference, ridge=ridge))
        last[ridge](sources, knobs, out)

    return merge


def _prepare(
    tensors: Sequence[Array], base: Array | None, combine: Combine, *, smallest: int = 2
) -> Merge:
    """Prepare base + lambda * (what `combine` makes of the task vectors).

    Tensors that are not matrices, and matrices with fewer rows or columns than `smallest`, get the
    mean of the task vectors.
    """
    from evomerge.merging.kernels.passes import write_change
    from evomerge.merging.kernels.spectral import merged_change

    assert base is not None
    if base.ndim not in (2, 3) or min(base.shape[-2:]) < smallest:
        return prepare_mean_task_vector(tensors, base, (), reuse=False)
    change = merged_change(tensors, base, combine)

    def merge(
        sources: Sequence[Mapping[str, float]], knobs: Mapping[str, float], out: Array
    ) -> None:
        write_change(change, knobs["lambda"], base, out)

    return merge


_LAMBDA = Knob(
    "lambda", 1.0, -100, 100, "merge", search=(0.0, 2.0), help="factor on the merged task vector"
)

TSV = Method(
    name="tsv",
    title="largest singular components of each task vector, their vectors made orthogonal",
    prepare=prepare_tsv,
    knobs=(_LAMBDA,),
    arrays=True,
    parents=(2, None),
    base="required",
    paper="Gargiulo et al. 2025, arXiv 2412.00081",
    cached_bytes=2.0,
    in_mergekit=False,
    prepare_tokens=prepare_mean_task_vector,
    svds=(2.0, 1.0),
    working_bytes=copies(8.5, 4),
)

ISO_C = Method(
    name="iso_c",
    title="sum of the task vectors, with the mean of its singular values for each of them",
    prepare=prepare_iso_c,
    knobs=(_LAMBDA,),
    arrays=True,
    parents=(2, None),
    base="required",
    paper="Marczak et al. 2025, arXiv 2502.04959",
    cached_bytes=2.0,
    in_mergekit=False,
    prepare_tokens=prepare_mean_task_vector,
    svds=(1.0, 0.0),
    working_bytes=copies(8, 2),
)

WUDI_RIDGE = Method(
    name="wudi_ridge",
    title="task vector with the least interference that WUDI-Merging measures, by one solve",
    prepare=prepare_wudi_ridge,
    knobs=(
        _LAMBDA,
        Knob(
            "ridge",
            1.0,
            1e-6,
            1e6,
            "merge",
            help="pull to the sum of the task vectors; the larger, the nearer to the sum",
        ),
    ),
    arrays=True,
    parents=(2, None),
    base="required",
    paper="Cheng et al. 2025, arXiv 2503.08099",
    cached_bytes=2.0,
    in_mergekit=False,
    prepare_tokens=prepare_mean_task_vector,
    svds=(0.2, 0.25),
    working_bytes=copies(7, 2, 3),
)
