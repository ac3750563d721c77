"""Methods that work on the task vectors of a weight matrix as a whole: TSV-M.

    out = base + lambda * merged(x_1 - base, ..., x_T - base)

They merge matrices, also each matrix of a tensor with three dimensions (experts). Other tensors
(norms, biases, matrices of one row or column, convolutions) get the mean of the task vectors, and
so do embeddings and the head, as in the authors' code for language models.

Everything is float64. A pair of singular vectors may have either sign, and vectors of a singular
value of 0 any direction; no result depends on them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from math import prod
from typing import TYPE_CHECKING, TypeAlias

from evomerge.merging.kernels.compiled import Array
from evomerge.merging.kernels.passes import write_change, write_sum
from evomerge.merging.methods.method import Knob, Merge, Operands, Sources, Values, method

if TYPE_CHECKING:
    from torch import Tensor

Combine: TypeAlias = "Callable[[Sequence[Tensor]], Tensor]"
"""Merges the task vectors of one matrix (float64)."""

LAMBDA = Knob("lambda", 1.0, -100, 100, search=(0.0, 2.0), help="factor on the merged task vector")
"""The knob that methods for whole matrices have in common."""


def copies(
    fixed: float, each: float = 0.0, columns: float = 0.0
) -> Callable[[Sequence[int], Sources], float]:
    """Return the memory of a merge that holds float64 copies of a matrix (`Method.working_bytes`).

    The numbers are measured: that by which the process grew, for matrices of 600 to 2,400 rows and
    columns and two to four sources. Of a stack of matrices, one is merged at a time; the result is
    float32.

    Args:
        fixed: number of copies in any case.
        each: number of copies for each source.
        columns: number of square matrices with as many rows and columns as the matrix has columns.
    """

    def working_bytes(shape: Sequence[int], sources: Sources) -> float:
        if len(shape) not in (2, 3) or min(shape[-2:]) < 2:
            return 0.0
        held = (fixed + each * len(sources)) * shape[-2] * shape[-1] + columns * shape[-1] ** 2
        return 8 * held + 4 * prod(shape)

    return working_bytes


@method(
    "largest singular components of each task vector, their vectors made orthogonal",
    LAMBDA,
    parents=(2, None),
    base="required",
    paper="Gargiulo et al. 2025, arXiv 2412.00081",
    cached_bytes=2.0,
    in_mergekit=False,
    svds=(2.0, 1.0),
    working_bytes=copies(8.5, 4),
)
def tsv(given: Operands) -> Merge:
    """Prepare base + lambda * U S V^T of the largest singular components of all task vectors.

    Each of T task vectors gives the floor(r / T) largest of its r components. U and V have the
    singular vectors of all of them as columns, made orthogonal: A becomes the partial isometry of
    its polar decomposition, which is the nearest matrix with orthonormal columns (Procrustes).
    """
    return prepare_matrices(given, _joined_singular_vectors, smallest=max(2, len(given.tensors)))


def prepare_matrices(given: Operands, combine: Combine, *, smallest: int = 2) -> Merge:
    """Prepare base + lambda * (what `combine` makes of the task vectors).

    Embeddings, heads, tensors that are not matrices, and matrices with fewer rows or columns than
    `smallest` get the mean of the task vectors.
    """
    tensors, base, count = given.tensors, given.base, len(given.tensors)
    if given.tokens or base.ndim not in (2, 3) or min(base.shape[-2:]) < smallest:

        def merge_mean(sources: Sources, knobs: Values, out: Array) -> None:
            write_sum(tensors, [1 / count] * count, out, base, knobs["lambda"])

        return merge_mean
    change = _merged_change(tensors, base, combine)

    def merge(sources: Sources, knobs: Values, out: Array) -> None:
        write_change(change, knobs["lambda"], base, out)

    return merge


def _merged_change(tensors: Sequence[Array], base: Array, combine: Combine) -> Array:
    """Return the merged task vector (float32) of a matrix, or of each matrix of a stack by itself.

    It has the same bits on any number of threads. A matrix with a task vector that is not finite
    becomes NaN.
    """
    import torch

    from evomerge.merging.kernels.torch_views import as_array, as_tensor, one_thread

    start, *sources = (
        as_tensor(array.reshape(-1, *array.shape[-2:])) for array in (base, *tensors)
    )
    merged = torch.full(start.shape, math.nan, dtype=torch.float32)
    with one_thread():
        for i, matrix in enumerate(start):
            exact = matrix.double()
            task_vectors = [source[i].double() - exact for source in sources]
            if all(bool(torch.isfinite(item).all()) for item in task_vectors):
                merged[i] = combine(task_vectors)
    return as_array(merged.reshape(base.shape))


def _joined_singular_vectors(task_vectors: Sequence[Tensor]) -> Tensor:
    """Return U S V^T (see `tsv`)."""
    import torch

    kept = min(task_vectors[0].shape) // len(task_vectors)
    left, values, right = [], [], []
    for matrix in task_vectors:
        u, s, vh = singular_components(matrix)
        left.append(u[:, :kept])
        values.append(s[:kept])
        right.append(vh[:kept].T)
    scaled = _isometry(torch.cat(left, 1)) * torch.cat(values)
    return scaled @ _isometry(torch.cat(right, 1)).T


def singular_components(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return U, S, V^T without the components whose singular value is 0 up to rounding."""
    import torch

    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    rank = int((s > s[0] * max(matrix.shape) * torch.finfo(s.dtype).eps).sum())
    return u[:, :rank], s[:rank], vh[:rank]


def _isometry(matrix: Tensor) -> Tensor:
    """Return U V^T of the singular value decomposition of a matrix."""
    if not matrix.shape[1]:
        return matrix
    u, _, vh = singular_components(matrix)
    return u @ vh
