"""Iso-C and WUDI-Merging, which work on the task vectors of a weight matrix as a whole.

    out = base + lambda * merged(x_1 - base, ..., x_T - base)

As with `tsv` of evomerge, tensors that are not matrices get the mean of the task vectors, and so do
embeddings and the head. Everything is float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from evomerge.merging.kernels.compiled import Array
from evomerge.merging.methods.matrices import LAMBDA, copies, prepare_matrices, singular_components
from evomerge.merging.methods.method import Knob, Merge, Operands, Sources, Values, method

if TYPE_CHECKING:
    from torch import Tensor


def isotropic(changes: Sequence[Tensor]) -> Tensor:
    """Return the sum of task vectors with all singular values replaced by their mean (Iso-C)."""
    import torch

    total = torch.stack(list(changes)).sum(0)
    u, s, vh = singular_components(total)
    return (u @ vh) * (s.sum() / min(total.shape))


def least_interference(changes: Sequence[Tensor], ridge: float) -> Tensor:
    """Return the matrix X that minimises the interference of WUDI-Merging, with a ridge.

    The interference is sum_t |(X - D_t) D_t^T|^2 / |D_t|^2 for task vectors D_t. With
    G = sum_t D_t^T D_t / |D_t|^2 and the sum D of all task vectors, what is minimised is

        interference + c |X - D|^2,  c = ridge * (mean of the diagonal of G).

    So a large ridge gives the sum. A task vector of zeros interferes with nothing.
    """
    import torch

    total = torch.stack(list(changes)).sum(0)
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


@method(
    "sum of the task vectors, with the mean of its singular values for each of them",
    LAMBDA,
    parents=(2, None),
    base="required",
    paper="Marczak et al. 2025, arXiv 2502.04959",
    cached_bytes=2.0,
    in_mergekit=False,
    svds=(1.0, 0.0),
    working_bytes=copies(8, 2),
)
def iso_c(given: Operands) -> Merge:
    """Prepare base + lambda * (the sum with equal singular values); see `isotropic`."""
    return prepare_matrices(given, isotropic)


@method(
    "task vector with the least interference that WUDI-Merging measures, by one solve",
    LAMBDA,
    Knob(
        "ridge",
        1.0,
        1e-6,
        1e6,
        help="pull to the sum of the task vectors; the larger, the nearer to the sum",
    ),
    parents=(2, None),
    base="required",
    paper="Cheng et al. 2025, arXiv 2503.08099",
    cached_bytes=2.0,
    in_mergekit=False,
    svds=(0.2, 0.25),
    working_bytes=copies(7, 2, 3),
)
def wudi_ridge(given: Operands) -> Merge:
    """Prepare base + lambda * X; see `least_interference`."""
    last: dict[float, Merge] = {}

    def merge(sources: Sources, knobs: Values, out: Array) -> None:
        ridge = knobs["ridge"]
        if ridge not in last:
            last.clear()
            last[ridge] = prepare_matrices(given, partial(least_interference, ridge=ridge))
        last[ridge](sources, knobs, out)

    return merge
