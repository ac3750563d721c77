"""Methods that work on the task vectors of a weight matrix as a whole: TSV-M.

    out = base + lambda * merged(x_1 - base, ..., x_T - base)

They merge matrices, also each matrix of a tensor with three dimensions (experts). Other tensors
(norms, biases, matrices of one row or column, convolutions) get the mean of the task vectors, and
so do embeddings and the head, as in the authors' code for language models. See
`evomerge.merging.kernels.spectral` for the formulas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

    return prepare_matrices(tensors, base, joined_singular_vectors, smallest=max(2, len(tensors)))


def prepare_matrices(
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


LAMBDA = Knob(
    "lambda", 1.0, -100, 100, "merge", search=(0.0, 2.0), help="factor on the merged task vector"
)
"""The knob that methods for whole matrices have in common."""

TSV = Method(
    name="tsv",
    title="largest singular components of each task vector, their vectors made orthogonal",
    prepare=prepare_tsv,
    knobs=(LAMBDA,),
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
