"""What task vectors of one matrix have in common, by their singular values.

Everything is float64. A pair of singular vectors may have either sign, and vectors of a singular
value of 0 any direction; no result depends on them. The functions take the task vectors of all
sources, matrices of one shape, and return the merged one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from evomerge.merging.kernels.compiled import Array
from evomerge.merging.kernels.one_thread import one_thread
from evomerge.merging.kernels.torch_views import as_array, as_tensor

Combine: TypeAlias = Callable[[Sequence[Tensor]], Tensor]
"""Merges the task vectors of one matrix (float64)."""


def merged_change(tensors: Sequence[Array], base: Array, combine: Combine) -> Array:
    """Return the merged task vector of a matrix, or of each matrix of a stack by itself.

    The result is float32 and has the same bits on any number of threads. A matrix with a task
    vector that is not finite becomes NaN.

    Args:
        tensors: the sources, stored weights with 2 dimensions or more.
        base: what task vectors are measured from, of the same shape.
        combine: merges the task vectors of one matrix.
    """
    start, *sources = (
        as_tensor(array.reshape(-1, *array.shape[-2:])) for array in (base, *tensors)
    )
    merged = torch.full(start.shape, math.nan, dtype=torch.float32)
    with one_thread():
        for i, matrix in enumerate(start):
            exact = matrix.double()
            changes = [source[i].double() - exact for source in sources]
            if all(bool(torch.isfinite(change).all()) for change in changes):
                merged[i] = combine(changes)
    return as_array(merged.reshape(base.shape))


def joined_singular_vectors(changes: Sequence[Tensor]) -> Tensor:
    """Return U S V^T of the largest singular components of all task vectors (TSV-M).

    Each of T task vectors gives the floor(r / T) largest of its r components. U and V have the
    singular vectors of all of them as columns, made orthogonal: A becomes the partial isometry of
    its polar decomposition, which is the nearest matrix with orthonormal columns (Procrustes).
    """
    kept = min(changes[0].shape) // len(changes)
    left, values, right = [], [], []
    for change in changes:
        u, s, vh = singular_components(change)
        left.append(u[:, :kept])
        values.append(s[:kept])
        right.append(vh[:kept].T)
    scaled = _isometry(torch.cat(left, 1)) * torch.cat(values)
    return scaled @ _isometry(torch.cat(right, 1)).T


def singular_components(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return U, S, V^T without the components whose singular value is 0 up to rounding."""
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    rank = int((s > s[0] * max(matrix.shape) * torch.finfo(s.dtype).eps).sum())
    return u[:, :rank], s[:rank], vh[:rank]


def _isometry(matrix: Tensor) -> Tensor:
    """Return U V^T of the singular value decomposition of a matrix."""
    if not matrix.shape[1]:
        return matrix
    u, _, vh = singular_components(matrix)
    return u @ vh
