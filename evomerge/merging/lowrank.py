"""The product of two thin matrices that is nearest to a matrix (Eckart and Young 1936).

Large matrices take a randomized range finder (Halko et al. 2011, arXiv 0909.4061, algorithm 4.4)
with a fixed seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_EXACT = 256
"""Largest smaller side of a matrix whose singular values are all computed, unless these are less
than four times as many as are needed: there the range finder saves no time."""

_MORE, _ROUNDS = 16, 4
"""Further columns and rounds of the range finder, with which it loses at most 1 % more than the
best cut does (`tests/merging/test_lowrank.py`)."""


_ROWS = 4096


@dataclass(frozen=True)
class Factors:
    """The product `up @ down` that is nearest to a matrix.

    Attributes:
        up: (rows, rank), float32.
        down: (rank, columns), float32.
        lost: squared Frobenius norm of what the product lacks.
    """

    up: Tensor
    down: Tensor
    lost: float


def factors(change: Tensor, rank: int, rounding: float = 0.0) -> Factors:
    """Return the nearest product of at most a rank.

    Args:
        change: (rows, columns), float32.
        rounding: singular values up to this are rounding errors, and are left out, as are those
            up to the error of the decomposition itself.
    """
    if min(change.shape) <= max(_EXACT, 4 * (rank + _MORE)):
        up, values, down = torch.linalg.svd(change, full_matrices=False)
    else:
        generator = torch.Generator().manual_seed(0)
        basis = change @ torch.randn(change.shape[1], rank + _MORE, generator=generator)
        for _ in range(_ROUNDS):
            basis = torch.linalg.qr(change.T @ torch.linalg.qr(basis).Q).Q
            basis = change @ basis
        basis = torch.linalg.qr(basis).Q
        inner, values, down = torch.linalg.svd(basis.T @ change, full_matrices=False)
        up = basis @ inner
    count = min(rank, int((values > max(rounding, float(values[0]) * 2**-21)).sum()))
    root = values[:count].sqrt()
    up, down = up[:, :count] * root, root[:, None] * down[:count]
    return Factors(up, down, squared(change, up, down))


def squared(change: Tensor, up: Tensor | None = None, down: Tensor | None = None) -> float:
    """Return the squared norm of a tensor, or of what a product lacks of it, summed in float64."""
    total = 0.0
    for start in range(0, len(change), _ROWS):  # a copy of all of it would be the largest part
        part = change[start : start + _ROWS]
        if up is not None and down is not None:
            part = part - up[start : start + _ROWS] @ down
        total += float(part.double().square().sum())
    return total
