"""Merging the weights of a linear layer by regression on its inputs, in float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from evomerge.errors import CandidateError
from evomerge.merging.kernels.one_thread import one_thread


def least_squares(weights: Sequence[Tensor], grams: Sequence[Tensor], alpha: float) -> Tensor:
    """Return the weight W that minimises sum_i tr((W - W_i) H_i (W - W_i)^T).

    With H_i = G_i = X_i^T X_i this is sum_i |X_i (W - W_i)^T|^2. Here the elements of G_i that are
    not on its diagonal are multiplied by alpha:

        H_i = alpha G_i + (1 - alpha) diag(G_i),    W = (sum_i W_i H_i) (sum_i H_i)^-1.

    It is computed as the mean M of the W_i plus (sum_i (W_i - M) H_i) (sum_i H_i)^-1, so that equal
    sources stay what they are. An input that is always 0 in all sources keeps the column of M. The
    result is float32 and has the same bits on any number of threads.

    Args:
        weights: a matrix (outputs, inputs) for each source, of any floating dtype.
        grams: the Gram matrix (inputs, inputs) of each source.
        alpha: from 0 (only the diagonals) to 1 (the plain Gram matrices).

    Raises:
        CandidateError: the sum of the H_i has no inverse, which only an alpha near 1 can cause.
    """
    with one_thread():
        mean = weights[0].double()
        for weight in weights[1:]:
            mean = mean + weight.double()
        mean = mean / len(weights)
        total = torch.zeros(grams[0].shape, dtype=torch.float64)
        right = torch.zeros_like(mean)
        for weight, gram in zip(weights, grams, strict=True):
            scaled = gram.double()
            own = scaled.diagonal().clone()
            scaled = scaled.mul_(alpha)
            scaled.diagonal().copy_(own)
            total += scaled
            right.addmm_(weight.double() - mean, scaled)
        return (mean + _solved(total, right)).float()


def _solved(total: Tensor, right: Tensor) -> Tensor:
    """Return right @ inverse(total) for a symmetric matrix that is overwritten.

    Rows and columns are first divided by the roots of the diagonal, since the sizes of inputs may
    differ by powers of ten.
    """
    scale = total.diagonal().clone()
    scale[scale <= 0] = 1.0  # an input that is always 0
    scale = scale.rsqrt_()
    total.mul_(scale).mul_(scale[:, None])
    total.diagonal().fill_(1.0)
    factor, failed = torch.linalg.cholesky_ex(total)
    least = len(total) * torch.finfo(total.dtype).eps
    if failed or float(factor.diagonal().min().square()) <= least:
        raise CandidateError(
            "The sum of the Gram matrices has no inverse, since the documents have too few "
            "different tokens for a layer of this width; lower `alpha`, or use more documents."
        )
    return torch.cholesky_solve((right * scale).T, factor).T * scale
