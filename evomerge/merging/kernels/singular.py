"""Random multiples of the singular components of a matrix.

With the singular value decomposition X = U S V^T and a random factor f_i for each component,
U diag(f) S V^T = X V diag(f) V^T. So only V is needed, the eigenvectors of X^T X, and neither the
sign of a singular vector nor a singular value near 0 matters.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from evomerge.merging.kernels.compiled import Array
from evomerge.merging.kernels.noise import LOWEST, STEPS, Noise
from evomerge.merging.kernels.one_thread import one_thread
from evomerge.merging.kernels.torch_views import as_array, as_tensor


class SingularComponents:
    """The singular components of a matrix, the task vector of a source.

    Args:
        source: a matrix of stored weights.
        base: what the task vector is measured from, of the same shape.
        keep: whether V is kept for later calls.
    """

    def __init__(self, source: Array, base: Array, *, keep: bool) -> None:
        self._source, self._base, self._keep = source, base, keep
        self._vectors: Tensor | None = None

    def scaled(self, noise: Noise, most: float) -> Array:
        """Return the components, each times a random number from 0 to `most`, as float32.

        The result has the same bits on any number of threads. It is NaN if the matrix is not
        finite.

        Args:
            noise: the random numbers, one for each component.
            most: largest factor.
        """
        with one_thread():
            change = as_tensor(self._source).float() - as_tensor(self._base).float()
            narrow = change if change.shape[0] >= change.shape[1] else change.t()
            vectors = self._vectors
            if vectors is None:
                vectors = _right_singular_vectors(narrow)
                self._vectors = vectors if self._keep else None
            draws = noise.draws(0, vectors.shape[1]).to(torch.float32)
            factors = (draws - LOWEST + 0.5) * (most / STEPS)
            scaled = narrow @ ((vectors * factors) @ vectors.t())
            return as_array((scaled if narrow is change else scaled.t()).contiguous())


def _right_singular_vectors(matrix: Tensor) -> Tensor:
    """Return V of a matrix with no fewer rows than columns, the largest component first."""
    exact = matrix.double()
    gram = exact.T @ exact
    if not bool(torch.isfinite(gram).all()):
        return torch.full_like(gram, math.nan, dtype=torch.float32)
    vectors: Tensor = torch.linalg.eigh(gram).eigenvectors.flip(1)
    return vectors.float()
