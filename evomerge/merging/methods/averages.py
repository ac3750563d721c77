"""Weighted sums of the sources: by weights that are knobs, or by angles between the sources.

For angles a tensor is one vector (for nuslerp and model_stock also each row or column). The weights
of the sum then depend on the knobs and on dot products, which are computed once.
"""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING

import numpy as np

from evomerge.merging.methods.blocks import (
    View,
    blocks,
    columns,
    flat,
    row_products,
    rows,
    slices,
    total,
)
from evomerge.merging.methods.method import WEIGHT, Floats, KnobKey, Operands, flag, knob, method

if TYPE_CHECKING:
    from torch import Tensor

    from evomerge.merging.kernels.compiled import Array

_SHOEMAKE = "Shoemake 1985, doi 10.1145/325165.325242"
_GODDARD = "Goddard et al. 2024, arXiv 2403.13257"


def _linear_gradients(
    operands: Operands, gradient: Array, *, weight: Floats, normalize: bool
) -> dict[KnobKey, float]:
    from evomerge.merging.kernels.passes import gradient_products, weight_gradients

    products = gradient_products(gradient, operands.tensors)
    by_weights, _ = weight_gradients(products, weight, normalize)
    return {(number, "weight"): value for number, value in enumerate(by_weights)}


@method(
    "weighted average of the weights",
    parents=(1, None),
    paper="Wortsman et al. 2022, arXiv 2203.05482",
    gradients=_linear_gradients,
)
def linear(
    operands: Operands, out: Array, *, weight: Floats = WEIGHT, normalize: bool = flag(True)
) -> None:
    """Write sum_i w_i x_i, with the weights divided by their sum if `normalize` is on."""
    from evomerge.merging.kernels.passes import normalized, write_sum

    write_sum(operands.tensors, normalized(weight) if normalize else weight, out)


@method("one source unchanged, or multiplied by a factor", parents=(1, 1))
def passthrough(
    operands: Operands, out: Array, *, scale: Floats = knob(1.0, -100, 100, per="source")
) -> None:
    """Write scale x."""
    from evomerge.merging.kernels.passes import write_sum

    write_sum(operands.tensors, scale, out)


def _products(operands: Operands) -> Array:
    """Return the dot product of every pair of sources or, with a base, of their task vectors."""
    from evomerge.merging.kernels.passes import products

    return products(operands.tensors, operands.base)


def _write_weighted(operands: Operands, weights: Array, out: Array) -> None:
    from evomerge.merging.kernels.passes import write_sum

    write_sum(operands.tensors, weights.tolist(), out, operands.base)


def _arc_weights(gram: Array, t: float, parallel: float = 1 - 1e-12) -> Array:
    """Return the weights of two vectors for the point at position t (0 to 1) of their arc.

    If the absolute value of their cosine is above `parallel`, the arc counts as straight. A vector
    of zeros counts as orthogonal. `gram` has their dot products: (2, 2), or (2, 2, n) for n pairs.
    """
    lengths = np.sqrt(gram[0, 0]) * np.sqrt(gram[1, 1])
    cosine = np.clip(gram[0, 1] / np.where(lengths == 0, 1.0, lengths), -1, 1)
    angle = np.arccos(cosine)
    straight = (abs(cosine) > parallel) | (t in (0, 1))
    sine = np.where(straight, 1.0, np.sin(angle))
    return np.array([np.where(straight, end, np.sin(end * angle) / sine) for end in (1 - t, t)])


@method(
    "spherical interpolation from the first source (t = 0) to the second (t = 1)",
    parents=(2, 2),
    paper=_SHOEMAKE,
    preparation=_products,
)
def slerp(
    operands: Operands, out: Array, *, t: float = knob(None, 0, 1, search=(0.0, 1.0))
) -> None:
    """Write the spherical linear interpolation (Shoemake 1985) between the two sources.

    It is linear if the absolute value of the cosine is above 0.9995. In plain numpy::

        def arc(x, y, t):
            angle = np.arccos(x @ y / np.sqrt((x @ x) * (y @ y)))
            return (np.sin((1 - t) * angle) * x + np.sin(t * angle) * y) / np.sin(angle)
    """
    _write_weighted(operands, _arc_weights(operands.prepared, t, 0.9995), out)


@method(
    "spherical interpolation between two sources or their task vectors, by weights",
    parents=(2, 2),
    base="optional",
    paper=_SHOEMAKE,
    preparation=lambda operands: cache(partial(row_products, operands)),
    torch=True,
)
def nuslerp(
    operands: Operands,
    out: Tensor,
    *,
    weight: Floats = WEIGHT,
    nuslerp_flatten: bool = flag(True),
    nuslerp_row_wise: bool = flag(False),
) -> None:
    """Write slerp at t = w_2 / (w_1 + w_2), between two sources or their task vectors.

    The vectors are whole tensors (`nuslerp_flatten`), or lie along the last dimension, or along the
    first one (`nuslerp_row_wise`).
    """
    import torch

    from evomerge.merging.kernels.passes import normalized

    view = columns if nuslerp_row_wise else rows
    view = flat if nuslerp_flatten or operands.tensors[0].ndim < 2 else view
    _, t = normalized(weight, switch=None)
    weights = torch.from_numpy(_arc_weights(operands.prepared(view).numpy(), t)).float()
    for (at, _), base, changes, target in blocks(operands, out, view):
        target.copy_(base + total(changes * weights[:, at, None]))


@method(
    "weighted mean of the directions, with the weighted mean of the lengths",
    parents=(2, None),
    base="optional",
    paper=_GODDARD,
    preparation=_products,
)
def multislerp(
    operands: Operands,
    out: Array,
    *,
    weight: Floats = WEIGHT,
    normalize_weights: bool = flag(True),
    eps: float = knob(1e-8, 0, 1, selects=True),
) -> None:
    """Write a vector in the direction of sum_i w_i x_i / |x_i| with length sum_i w_i |x_i|.

    If the directions cancel (that sum is at most `eps` long), it is sum_i w_i x_i.
    """
    from evomerge.merging.kernels.passes import normalized

    gram = operands.prepared
    weights = np.array(normalized(weight, "normalize_weights") if normalize_weights else weight)
    lengths = np.sqrt(gram.diagonal())
    units = weights * _inverse(lengths)
    length = _length(gram, units)
    if length > eps:
        weights = units * (weights @ lengths) / length
    _write_weighted(operands, weights, out)


def _length(gram: Array, weights: Array) -> float:
    """Return the length of a weighted sum of vectors."""
    return float(np.sqrt(np.maximum(weights @ gram @ weights, 0.0)))


def _inverse(lengths: Array) -> Array:
    """Return 1 / length, and 0 for the length 0."""
    return np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths != 0)


@method(
    "direction with the smallest sum of squared angles, with the mean of the lengths",
    parents=(2, None),
    paper="Karcher 1977, doi 10.1002/cpa.3160300502",
    preparation=_products,
)
def karcher(
    operands: Operands,
    out: Array,
    *,
    max_iter: int = knob(10.0, 1, 100_000, kind="integer"),
    tol: float = knob(1e-5, 0, 1, selects=True),
) -> None:
    """Write the direction of smallest sum of squared angles to x_i, with their mean length.

    It iterates m <- exp_m(mean_i log_m(u_i)), where m is a weighted sum of the unit vectors u_i.
    """
    lengths = np.sqrt(operands.prepared.diagonal())
    inverse, share = _inverse(lengths), 1 / len(lengths)
    cosines = operands.prepared * inverse * inverse[:, None]
    point = _unit(cosines, np.full(len(lengths), share))
    for _ in range(max_iter):
        along = np.clip(cosines @ point, -1, 1)
        angles = np.arccos(along)
        # angle / sin(angle); the direction away from the opposite of m is undecided.
        pulls = share / np.where(np.sin(angles) > 1e-9, np.sinc(angles / np.pi), 1.0)
        step = pulls - (pulls @ along) * point
        size = _length(cosines, step)
        if size <= tol:
            break
        point = _unit(cosines, point * np.cos(size) + step * np.sin(size) / size)
    _write_weighted(operands, point * lengths.mean() * inverse, out)


def _unit(cosines: Array, weights: Array) -> Array:
    """Return a weighted sum of unit vectors, scaled to the length 1 unless it is nearly 0."""
    length = _length(cosines, weights)
    return weights if length <= 1e-8 else weights / length


def _rows_of_stock(operands: Operands, filter_wise: bool) -> View:
    """Return the view whose rows have a product each; without `filter_wise` these are summed.

    Sums over the rows of another view would have other bits than those of earlier runs.
    """
    if operands.base.ndim < 2:
        return flat
    return rows if filter_wise else slices


@method(
    "between the base and the mean of the sources, by the angle between task vectors",
    parents=(2, None),
    base="required",
    paper="Jang et al. 2024, arXiv 2403.19522",
    preparation=lambda operands: cache(partial(row_products, operands)),
    torch=True,
)
def model_stock(operands: Operands, out: Tensor, *, filter_wise: bool = flag(False)) -> None:
    """Write base + t mean_i(x_i - base) with t = N c / (1 + (N - 1) c).

    c is the mean cosine between the N task vectors: one number for the tensor or, with
    `filter_wise`, one for each row along the last dimension. If the denominator is about 0 (1e-8),
    the result is the base.
    """
    import torch

    view, count = _rows_of_stock(operands, filter_wise), len(operands.tensors)
    products = operands.prepared(view)
    pairs = products if filter_wise else products.sum(-1, keepdim=True)
    one, two = torch.tril_indices(count, count, -1)
    lengths = pairs.diagonal().T.sqrt()
    scale = lengths[one] * lengths[two]
    # The cosine with a vector of zeros is 0.
    cosine = torch.where(scale == 0, 0.0, pairs[one, two] / scale).mean(0)
    denominator = 1 + (count - 1) * cosine
    ratio = torch.where(denominator.abs() <= 1e-8, 0.0, count * cosine / denominator)
    ratio = ratio.float().expand(products.shape[-1])
    for at, base, changes, target in blocks(operands, out, view):
        target.copy_(base + ratio[at[0], None] * (total(changes) / count))
