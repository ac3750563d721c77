"""Methods that sparsify task vectors (differences from a base), combine them and add them back.

    out = base + lambda * consensus_i(w_i * sparse_i(x_i - base))

The methods differ in which elements of a task vector stay (the five functions of papers below), and
in the consensus: the sum, or the sum of the changes of one elected sign. `rescale` keeps the
expected L1 norm of a task vector; for DARE the factor is 1 / density, as in its paper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from evomerge.merging.methods.method import (
    WEIGHT,
    Floats,
    KnobKey,
    Method,
    Operands,
    flag,
    knob,
    knobs_of,
)

if TYPE_CHECKING:
    from evomerge.merging.kernels.compiled import Array
    from evomerge.merging.kernels.consensus import Consensus
    from evomerge.merging.kernels.noise import Drawn, DrawnByRank
    from evomerge.merging.kernels.passes import Sparse, TaskVector
    from evomerge.merging.kernels.selection import Largest

_DENSITY = knob(1.0, 0, 1, per="source", search=(0.1, 1.0), selects=True)


@dataclass(frozen=True)
class _Sparsifier:
    """Chooses which elements of a task vector stay.

    Attributes:
        stays: what stays, in the titles of methods.
        paper, cached_bytes, random: see `Method`.
        vectors: returns what `select` takes of each source: what does not depend on its knobs.
        select: takes a task vector, whether it is rescaled, and the knobs of its source.
    """

    stays: str
    paper: str
    vectors: Callable[[Operands], list[Any]]
    select: Callable[..., Sparse]
    cached_bytes: float = 0.0
    random: bool = False


def _plain(operands: Operands) -> list[TaskVector]:
    from evomerge.merging.kernels.passes import TaskVector

    return [TaskVector(tensor, operands.base) for tensor in operands.tensors]


def _largest(operands: Operands) -> list[Largest]:
    from evomerge.merging.kernels.selection import Largest

    return [Largest(tensor, operands.base, reuse=operands.reuse) for tensor in operands.tensors]


def _drawn(operands: Operands, *, by_rank: bool = False) -> list[Drawn]:
    from evomerge.merging.kernels.noise import Drawn, DrawnByRank

    kind = DrawnByRank if by_rank else Drawn
    pairs = zip(operands.tensors, operands.noise, strict=True)
    return [kind(tensor, operands.base, noise, reuse=operands.reuse) for tensor, noise in pairs]


@partial(_Sparsifier, "task vectors", "Ilharco et al. 2023, arXiv 2212.04089", _plain)
def everything(
    vector: TaskVector,
    rescale: bool,
    *,
    density: float = knob(1.0, 1, 1, per="source", selects=True),
) -> Sparse:
    """All elements stay (task arithmetic)."""
    return 1.0, vector.load


@partial(
    _Sparsifier,
    "the largest changes",
    "Yadav et al. 2023, arXiv 2306.01708",
    _largest,
    cached_bytes=4.0,
)
def largest(vector: Largest, rescale: bool, *, density: float = _DENSITY) -> Sparse:
    """Of n elements, the floor(density n) of largest magnitude stay (TIES).

    Among equal magnitudes, the lowest index stays first.
    """
    return vector.select(density, 0.0, rescale)


@partial(
    _Sparsifier,
    "the changes that are neither among the largest nor the smallest",
    "Davari and Belilovsky 2023, arXiv 2312.06795",
    _largest,
    cached_bytes=4.0,
)
def without_outliers(
    vector: Largest,
    rescale: bool,
    *,
    density: float = _DENSITY,
    gamma: float = knob(0.01, 0, 1, per="source", selects=True),
) -> Sparse:
    """Of n elements, the floor(gamma n) largest go, the next floor(density n) stay (Breadcrumbs).

    If these are more than n together, fewer of the largest go.
    """
    return vector.select(density, gamma, rescale)


@partial(
    _Sparsifier,
    "a random share of each task vector",
    "Yu et al. 2024, arXiv 2311.03099",
    _drawn,
    cached_bytes=2.0,
    random=True,
)
def drawn(vector: Drawn, rescale: bool, *, density: float = _DENSITY) -> Sparse:
    """Each element stays with the probability `density` (DARE)."""
    return vector.select(density, rescale)


@partial(
    _Sparsifier,
    "a random share of each task vector, large changes likelier",
    "Deep et al. 2024, arXiv 2406.11617",
    partial(_drawn, by_rank=True),
    cached_bytes=4.0,
    random=True,
)
def drawn_by_rank(
    vector: DrawnByRank,
    rescale: bool,
    *,
    density: float = _DENSITY,
    epsilon: float = knob(0.15, 0, 1, per="source", selects=True),
) -> Sparse:
    """Large elements of a row stay with a higher probability (DELLA)."""
    return vector.select_by_rank(density, epsilon, rescale)


def _merge(
    kind: _Sparsifier,
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
    """Write the merge of a method of this file; `sparsity`: the knobs of `kind`."""
    from evomerge.merging.kernels import passes

    weights = passes.normalized(weight) if normalize and not elect else weight
    if kind is everything:
        passes.write_sum(operands.tensors, weights, out, operands.base, lambda_)
        return
    used = [number for number, weight in enumerate(weights) if weight]
    factors, consensus = _consensus(kind, operands, used, weights, normalize, rescale, sparsity)
    if factors:
        consensus.write(out, operands.base, lambda_, elect=elect)
    else:
        passes.write_copy(operands.base, out)


def _gradients(
    kind: _Sparsifier,
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
    factors, consensus = _consensus(kind, operands, numbers, weight, normalize, rescale, sparsity)
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
    kind: _Sparsifier,
    operands: Operands,
    numbers: Iterable[int],
    weights: Floats,
    normalize: bool,
    rescale: bool,
    sparsity: Mapping[str, Floats],
) -> tuple[dict[int, float], Consensus]:
    """Return number -> factor of those sparse task vectors that have elements, and their sum."""
    from evomerge.merging.kernels.consensus import Consensus

    sparse = {}
    for number in numbers:
        knobs = {name: values[number] for name, values in sparsity.items()}
        if (kept := kind.select(operands.prepared[number], rescale, **knobs)) is not None:
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


def _method(name: str, kind: _Sparsifier, *, elect: bool = False, on: Sequence[str] = ()) -> Method:
    """Return a method of this file; `on`: the flags that are on by default."""
    weight, *shared = knobs_of(_merge)
    shared = [replace(knob, default=1.0) if knob.name in on else knob for knob in shared]
    return Method(
        name,
        f"sum of {kind.stays}{', with elected signs' if elect else ''}",
        partial(_merge, kind, elect),
        (weight, *knobs_of(kind.select), *shared),
        parents=(1, None),
        base="required",
        paper=kind.paper,
        preparation=kind.vectors,
        random=kind.random,
        cached_bytes=kind.cached_bytes,
        gradients=partial(_gradients, kind, elect),
        smoothed=("weight",) if elect else (),
    )


task_arithmetic = _method("task_arithmetic", everything)
ties = _method("ties", largest, elect=True, on=["normalize"])
dare_linear = _method("dare_linear", drawn, on=["rescale"])
dare_ties = _method("dare_ties", drawn, elect=True, on=["rescale"])
della = _method("della", drawn_by_rank, elect=True, on=["normalize", "rescale"])
della_linear = _method("della_linear", drawn_by_rank, on=["rescale"])
breadcrumbs = _method("breadcrumbs", without_outliers)
breadcrumbs_ties = _method("breadcrumbs_ties", without_outliers, elect=True)
