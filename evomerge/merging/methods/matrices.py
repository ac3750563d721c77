"""Methods that work on the task vectors of a weight matrix as a whole: TSV-M."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from typing import TYPE_CHECKING

from evomerge.merging.methods.blocks import blocks, total
from evomerge.merging.methods.method import Operands, knob, method

if TYPE_CHECKING:
    from torch import Tensor


def _merged_change(operands: Operands) -> Tensor | None:
    """Return U S V^T of each matrix (see `tsv`), float32; None: the mean is taken instead."""
    import torch

    base, count = operands.base, len(operands.tensors)
    if operands.tokens or base.ndim not in (2, 3) or min(base.shape[-2:]) < count:
        return None
    stacks = [tensor.reshape(-1, *base.shape[-2:]) for tensor in (base, *operands.tensors)]
    merged = torch.full(stacks[0].shape, nan)
    for i, (start, *matrices) in enumerate(zip(*stacks, strict=True)):
        task_vectors = [matrix.double() - start.double() for matrix in matrices]
        if all(bool(torch.isfinite(item).all()) for item in task_vectors):
            merged[i] = _joined_singular_vectors(task_vectors)
    return merged


@method(
    "largest singular components of each task vector, their vectors made orthogonal",
    parents=(2, None),
    base="required",
    paper="Gargiulo et al. 2025, arXiv 2412.00081",
    preparation=_merged_change,
    cached_bytes=2.0,
    in_mergekit=False,
    costly=True,
    working_bytes=45.0,  # measured for two and three sources; fewer for more, and for stacks
    torch=True,
)
def tsv(
    operands: Operands, out: Tensor, *, lambda_: float = knob(1.0, -100, 100, search=(0.0, 2.0))
) -> None:
    """Write base + lambda * U S V^T of the largest singular components of all task vectors.

    Each of T task vectors gives the floor(r / T) largest of its r components. U and V have the
    singular vectors of all of them as columns, made orthogonal: A becomes the partial isometry of
    its polar decomposition, which is the nearest matrix with orthonormal columns (Procrustes).

    Each matrix of a tensor with three dimensions (experts) is merged by itself, in float64. Other
    tensors (norms, biases, convolutions, matrices with fewer rows or columns than T) get the mean
    of the task vectors, and so do embeddings and the head, as in the authors' code for language
    models. A matrix becomes NaN if a weight of it is not finite.
    """
    import torch

    merged = operands.prepared
    if merged is None:
        for _, start, changes, target in blocks(operands, out):
            target.copy_(start + lambda_ * total(changes) / len(operands.tensors))
        return
    base, results = operands.base.reshape(merged.shape), out.view(merged.shape)
    for start, change, target in zip(base, merged, results, strict=True):
        target.copy_(torch.add(start.float(), change, alpha=lambda_))


def _joined_singular_vectors(task_vectors: Sequence[Tensor]) -> Tensor:
    """Return U S V^T (see `tsv`)."""
    import torch

    kept = min(task_vectors[0].shape) // len(task_vectors)
    parts = [[x[..., :kept] for x in _components(matrix)] for matrix in task_vectors]
    left, values, right = (torch.cat(items, -1) for items in zip(*parts, strict=True))
    return (_isometry(left) * values) @ _isometry(right).T


def _components(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return U, S and V without the components whose singular value is 0 up to rounding."""
    import torch

    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    rank = int((s > s[0] * max(matrix.shape) * torch.finfo(s.dtype).eps).sum())
    return u[:, :rank], s[:rank], vh[:rank].T


def _isometry(matrix: Tensor) -> Tensor:
    """Return U V^T of the singular value decomposition of a matrix."""
    if not matrix.shape[1]:
        return matrix
    u, _, v = _components(matrix)
    return u @ v.T
