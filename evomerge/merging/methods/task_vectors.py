"""Methods that sparsify task vectors (differences from a base), combine them and add them back; and
TSV-M, which joins the singular vectors of the task vectors of a matrix.

    out = base + lambda * consensus_i(w_i * sparse_i(x_i - base))

The methods differ in which elements of a task vector stay (a class of them for each paper), and
in the consensus: the sum, or the sum of the changes of one elected sign. `rescale` keeps the
expected L1 norm of a task vector; for DARE the factor is 1 / density, as in its paper.

This is what the compiled loops compute, in plain numpy, for a task vector `x` of n elements and
random numbers `u` from 0 to 1; tests compare the two::

    def largest(x, density, gamma=0.0):  # TIES; Breadcrumbs with gamma
        kept = int(density * x.size)
        first = min(int(gamma * x.size), x.size - kept)
        order = np.argsort(-abs(x), kind="stable")[first : first + kept]
        return np.where(np.isin(np.arange(x.size), order), x, 0)

    def drawn(x, density, u):  # DARE
        return np.where(u < density, x / density, 0)

    def drawn_by_rank(x, density, epsilon, u):  # DELLA, for each row of a matrix
        rank = np.argsort(np.argsort(abs(x))) / (x.size - 1)
        chance = density - epsilon + 2 * epsilon * rank
        return np.where(u < chance, x / np.average(chance, weights=abs(x)), 0)

    def summed(sparse, weights):  # sparse: (sources, n)
        return weights @ sparse

    def elected(sparse, weights, normalize=False):  # TIES
        parts = weights[:, None] * sparse
        agrees = np.sign(parts) == np.where(parts.sum(0) >= 0, 1, -1)
        divisor = abs(weights) @ agrees if normalize else np.ones(parts.shape[1])
        return (parts * agrees).sum(0) / np.where(divisor, divisor, 1)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from math import nan
from typing import TYPE_CHECKING

from evomerge.merging.methods.blocks import blocks, total
from evomerge.merging.methods.method import (
    WEIGHT,
    Floats,
    Knob,
    KnobKey,
    Method,
    Operands,
    flag,
    knob,
    knobs_of,
    method,
)

if TYPE_CHECKING:
    from torch import Tensor

    from evomerge.merging.kernels.compiled import Array
    from evomerge.merging.kernels.consensus import Consensus
    from evomerge.merging.kernels.passes import TaskVector

_DENSITY = Knob("density", 1.0, 0, 1, per="source", search=(0.1, 1.0), selects=True)
_GAMMA = Knob("gamma", 0.01, 0, 1, per="source", selects=True)
_EPSILON = Knob("epsilon", 0.15, 0, 1, per="source", selects=True)

_CACHED = {"TaskVector": 0.0, "Largest": 4.0, "Drawn": 2.0, "DrawnByRank": 4.0}
"""Class of task vectors -> bytes that it keeps for each element of a source."""


def _vectors(kind: str, operands: Operands) -> list[TaskVector]:
    """Return the task vectors of the sources, of the class called `kind`."""
    from evomerge.merging.kernels.noise import Drawn, DrawnByRank
    from evomerge.merging.kernels.passes import TaskVector
    from evomerge.merging.kernels.selection import Largest

    kinds = {it.__name__: it for it in (TaskVector, Largest, Drawn, DrawnByRank)}
    pairs = zip_longest(operands.tensors, operands.noise)
    return [kinds[kind](it, operands.base, noise, reuse=operands.reuse) for it, noise in pairs]


def _merge(
    elect: bool,
    operands: Operands,
    out: Array,
    *,
    weight: Floats = WEIGHT,
    lambda_: float = knob(1.0, -100, 100),
    normalize: bool = flag(False),
    rescale: bool = flag(False),
    int8_mask: bool = flag(False),
    **sparsity: Floats,
) -> None:
    """Write the merge of a method of this file; `sparsity`: the knobs of `TaskVector.select`."""
    from evomerge.merging.kernels import passes

    weights = passes.normalized(weight) if normalize and not elect else weight
    if not elect and all(share == 1 for share in sparsity["density"]):
        passes.write_sum(operands.tensors, weights, out, operands.base, lambda_)
        return
    used = [number for number, weight in enumerate(weights) if weight]
    factors, consensus = _consensus(operands, used, weights, normalize, rescale, **sparsity)
    if factors:
        consensus.write(out, operands.base, lambda_, elect=elect)
    else:
        passes.write_copy(operands.base, out)


def _gradients(
    elect: bool,
    operands: Operands,
    gradient: Array,
    *,
    weight: Floats,
    lambda_: float,
    normalize: bool,
    rescale: bool,
    int8_mask: bool,
    **sparsity: Floats,
) -> dict[KnobKey, float]:
    """Return the gradients by weights and lambda, where the same elements stay.

    Where signs are elected, those by weights are smoothed (see `Consensus.elected_products`). The
    gradient by a weight of 0 is that to larger weights.
    """
    from evomerge.merging.kernels.passes import weight_gradients

    numbers = range(len(weight))
    factors, consensus = _consensus(operands, numbers, weight, normalize, rescale, **sparsity)
    by_weights = [0.0] * len(weight)
    if elect:
        each, shared, merged = consensus.elected_products(gradient)
        for (number, factor), product, mean in zip(factors.items(), each, shared, strict=True):
            away = mean if weight[number] >= 0 else -mean  # the divisor grows with the weight
            by_weights[number] = lambda_ * (factor * product - (away if normalize else 0.0))
    else:
        products = consensus.products(gradient)
        for (number, factor), product in zip(factors.items(), products, strict=True):
            by_weights[number] = factor * product
        by_weights, merged = weight_gradients(by_weights, weight, normalize, lambda_)
    named: dict[KnobKey, float] = {(i, "weight"): value for i, value in enumerate(by_weights)}
    return named | {(None, "lambda"): merged}


def _consensus(
    operands: Operands,
    numbers: Iterable[int],
    weights: Floats,
    normalize: bool,
    rescale: bool,
    /,
    **sparsity: Floats,
) -> tuple[dict[int, float], Consensus]:
    """Return number -> factor of those sparse task vectors that have elements, and their sum."""
    from evomerge.merging.kernels.consensus import Consensus

    sparse = {}
    for number in numbers:
        knobs = {name: values[number] for name, values in sparsity.items()}
        if (kept := operands.prepared[number].select(rescale, **knobs)) is not None:
            sparse[number] = kept

    def changes(span: slice, values: Array) -> None:
        for (_, write), row in zip(sparse.values(), values, strict=True):
            write(span, row)

    return {number: factor for number, (factor, _) in sparse.items()}, Consensus(
        changes=changes,
        factors=[weights[number] * factor for number, (factor, _) in sparse.items()],
        divisors=[abs(weights[number]) for number in sparse] if normalize else None,
        row_length=operands.prepared[0].row_length,
    )


def _method(
    name: str,
    stays: str,
    paper: str,
    kind: str,
    knobs: Sequence[Knob],
    *,
    elect: bool = False,
    on: Sequence[str] = (),
) -> Method:
    """Return a method of this file.

    Args:
        stays: what stays of each task vector, in the title.
        kind, knobs: the class of the task vectors, and the knobs that its `select` takes.
        on: the flags that are on by default.
    """
    weight, *shared = knobs_of(_merge)
    shared = [replace(knob, default=1.0) if knob.name in on else knob for knob in shared]
    return Method(
        name,
        f"sum of {stays}{', with elected signs' if elect else ''}",
        partial(_merge, elect),
        (weight, *knobs, *shared),
        parents=(1, None),
        base="required",
        paper=paper,
        preparation=partial(_vectors, kind),
        random=kind.startswith("Drawn"),
        cached_bytes=_CACHED[kind],
        gradients=partial(_gradients, elect),
        smoothed=("weight",) if elect else (),
    )


_EVERYTHING = "task vectors", "Ilharco et al. 2023, arXiv 2212.04089", "TaskVector"
_LARGEST = "the largest changes", "Yadav et al. 2023, arXiv 2306.01708", "Largest"
_SHARE = "a random share of each task vector"
_DRAWN = _SHARE, "Yu et al. 2024, arXiv 2311.03099", "Drawn"
_BY_RANK = f"{_SHARE}, large changes likelier", "Deep et al. 2024, arXiv 2406.11617", "DrawnByRank"
_MIDDLE = (
    "the changes that are neither among the largest nor the smallest",
    "Davari and Belilovsky 2023, arXiv 2312.06795",
    "Largest",
)
"""What stays, paper, class of the task vectors."""

_ALL = replace(_DENSITY, low=1, search=None)

task_arithmetic = _method("task_arithmetic", *_EVERYTHING, [_ALL])
ties = _method("ties", *_LARGEST, [_DENSITY], elect=True, on=["normalize"])
dare_linear = _method("dare_linear", *_DRAWN, [_DENSITY], on=["rescale"])
dare_ties = _method("dare_ties", *_DRAWN, [_DENSITY], elect=True, on=["rescale"])
della = _method("della", *_BY_RANK, [_DENSITY, _EPSILON], elect=True, on=["normalize", "rescale"])
della_linear = _method("della_linear", *_BY_RANK, [_DENSITY, _EPSILON], on=["rescale"])
breadcrumbs = _method("breadcrumbs", *_MIDDLE, [_DENSITY, _GAMMA])
breadcrumbs_ties = _method("breadcrumbs_ties", *_MIDDLE, [_DENSITY, _GAMMA], elect=True)


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
