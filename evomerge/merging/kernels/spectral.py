"""What task vectors of one matrix have in common, by singular values and linear equations.

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
        u, s, vh = _components(change)
        left.append(u[:, :kept])
        values.append(s[:kept])
        right.append(vh[:kept].T)
    scaled = _isometry(torch.cat(left, 1)) * torch.cat(values)
    return scaled @ _isometry(torch.cat(right, 1)).T


def isotropic(changes: Sequence[Tensor]) -> Tensor:
    """Return the sum of task vectors with all singular values replaced by their mean (Iso-C)."""
    total = _sum(changes)
    u, s, vh = _components(total)
    return (u @ vh) * (s.sum() / min(total.shape))


def least_interference(changes: Sequence[Tensor], ridge: float) -> Tensor:
    """Return the matrix X that minimises the interference of WUDI-Merging, with a ridge.

    The interference is sum_t |(X - D_t) D_t^T|^2 / |D_t|^2 for task vectors D_t. With
    G = sum_t D_t^T D_t / |D_t|^2 and the sum D of all task vectors, what is minimised is

        interference + c |X - D|^2,  c = ridge * (mean of the diagonal of G).

    So a large ridge gives the sum. A task vector of zeros interferes with nothing.
    """
    total = _sum(changes)
    gram = total.new_zeros(total.shape[1], total.shape[1])
    slope = torch.zeros_like(total)  # half of the gradient of the interference at the sum
    for change in changes:
        square = change.square().sum()
        if square:
            gram.addmm_(change.T, change / square)
            slope.addmm_((total - change) @ change.T, change / square)
    level = gram.trace() / len(gram)
    if not level:
        return total
    gram.diagonal().add_(ridge * level)
    return total - torch.cholesky_solve(slope.T, torch.linalg.cholesky(gram)).T


def _sum(changes: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(changes)).sum(0)


def _components(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return U, S, V^T without the components whose singular value is 0 up to rounding."""
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    rank = int((s > s[0] * max(matrix.shape) * torch.finfo(s.dtype).eps).sum())
    return u[:, :rank], s[:rank], vh[:rank]


def _isometry(matrix: Tensor) -> Tensor:
    """Return U V^T of the singular value decomposition of a matrix."""
    if not matrix.shape[1]:
        return matrix
    u, _, vh = _components(matrix)
    return u @ vh
