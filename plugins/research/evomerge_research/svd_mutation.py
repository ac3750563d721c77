"""A sum of task vectors, mutated along singular components: the merge of CycleQD.

    out = base + sum_i w_i d_i + sum_i U_i diag(f_i) S_i V_i^T

Here d_i = x_i - base is a task vector, U_i S_i V_i^T its singular value decomposition, and f_i are
random numbers from 0 to `mutation`, one for each singular component. Only matrices have a mutation;
norms and biases have none, as in the authors' code (github.com/SakanaAI/CycleQD).

With X = U S V^T, U diag(f) S V^T = X V diag(f) V^T. So only V is needed, the eigenvectors of X^T X,
and neither the sign of a singular vector nor a singular value near 0 matters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from evomerge.merging.kernels.compiled import Array
from evomerge.merging.kernels.noise import LOWEST, STEPS, Noise
from evomerge.merging.kernels.passes import write_copy, write_sum
from evomerge.merging.methods.linear import normalized
from evomerge.merging.methods.matrices import copies
from evomerge.merging.methods.method import (
    Knob,
    Merge,
    Operands,
    Sources,
    Values,
    flag,
    method,
    weight_knob,
)

if TYPE_CHECKING:
    from torch import Tensor


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
        import torch

        from evomerge.merging.kernels.torch_views import as_array, as_tensor, one_thread

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
    import torch

    exact = matrix.double()
    gram = exact.T @ exact
    if not bool(torch.isfinite(gram).all()):
        return torch.full_like(gram, math.nan, dtype=torch.float32)
    vectors: Tensor = torch.linalg.eigh(gram).eigenvectors.flip(1)
    return vectors.float()


def _working_bytes(shape: Sequence[int], sources: Sources) -> float:
    mutated = any(source["mutation"] for source in sources)
    return copies(8)(shape, sources) if mutated and len(shape) == 2 else 0.0


@method(
    "sum of task vectors, and random shares of their singular components",
    weight_knob("factor on the task vector"),
    Knob(
        "mutation",
        0.0,
        0,
        10,
        "source",
        help="each singular component is added times a random number from 0 to this",
    ),
    flag("normalize", False, "divide the weights by their sum"),
    parents=(1, None),
    base="required",
    paper="Kuroki et al. 2025, arXiv 2410.14735",
    random=True,
    cached_bytes=4.0,
    in_mergekit=False,
    working_bytes=_working_bytes,
)
def svd_mutation(given: Operands) -> Merge:
    """Prepare a sum of task vectors with a mutation; see the top of this file."""
    tensors, base = given.tensors, given.base
    components = [SingularComponents(tensor, base, keep=given.reuse) for tensor in tensors]

    def merge(sources: Sources, knobs: Values, out: Array) -> None:
        weights = [source["weight"] for source in sources]
        weights = normalized(weights) if knobs["normalize"] else weights
        mutated = [i for i, source in enumerate(sources) if source["mutation"] and out.ndim == 2]
        if not mutated:
            write_sum(tensors, weights, out, base)
            return
        exact = np.empty(out.shape, dtype=np.float32)
        write_sum(tensors, weights, exact, base)
        for i in mutated:
            exact += components[i].scaled(given.noise[i], sources[i]["mutation"])
        write_copy(exact, out)

    return merge
