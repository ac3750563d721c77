"""Averages by angles: slerp, nuslerp, multislerp, karcher, model_stock.

A tensor is one vector (for nuslerp also each row or column). The result is a weighted sum of the
sources, whose weights depend on the knobs and on dot products, which are computed once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from evomerge.merging.kernels.compiled import Array
from evomerge.merging.kernels.passes import products, write_sum
from evomerge.merging.methods.blocks import View, blocks, columns, flat, row_products, rows, total
from evomerge.merging.methods.linear import normalized
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

_WEIGHT = weight_knob("share of the source")
_SHOEMAKE = "Shoemake 1985, doi 10.1145/325165.325242"


def _weighted(weigh: Callable[[Array, Sources, Values], Array], given: Operands) -> Merge:
    """Return the weighted sum of the sources (or of their task vectors, if there is a base).

    `weigh` returns the weights, given the dot product of every pair (float64) and the knobs.
    """
    gram = products(given.tensors, given.base)

    def merge(sources: Sources, knobs: Values, out: Array) -> None:
        write_sum(given.tensors, weigh(gram, sources, knobs).tolist(), out, given.base)

    return merge


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
    Knob("t", None, 0, 1, search=(0.0, 1.0), help="position between the two"),
    parents=(2, 2),
    paper=_SHOEMAKE,
)
def slerp(given: Operands) -> Merge:
    """Prepare spherical linear interpolation (Shoemake 1985) between the two sources.

    It is linear if the absolute value of the cosine is above 0.9995.
    """
    return _weighted(lambda gram, _, knobs: _arc_weights(gram, knobs["t"], 0.9995), given)


@method(
    "spherical interpolation between two sources or their task vectors, by weights",
    _WEIGHT,
    flag("nuslerp_flatten", True, "treat a tensor as one vector"),
    flag("nuslerp_row_wise", False, "if not flattened: each column (1) or row (0) is a vector"),
    parents=(2, 2),
    base="optional",
    paper=_SHOEMAKE,
    torch=True,
)
def nuslerp(given: Operands) -> Merge:
    """Prepare slerp at t = w_2 / (w_1 + w_2), between two sources or their task vectors.

    The vectors are whole tensors (`nuslerp_flatten`), their rows, or their columns.
    """
    import torch

    @cache
    def gram(view: View) -> Array:
        array: Array = row_products(given, view).numpy()
        return array

    def merge(sources: Sources, knobs: Values, out: Tensor) -> None:
        view = columns if knobs["nuslerp_row_wise"] else rows
        view = flat if knobs["nuslerp_flatten"] or given.tensors[0].ndim < 2 else view
        t = normalized([source["weight"] for source in sources], switch=None)[1]
        weights = torch.from_numpy(_arc_weights(gram(view), t)).float()
        for (at, _), base, changes, target in blocks(given, out, view):
            target.copy_(base + total(changes * weights[:, at, None]))

    return merge


@method(
    "weighted mean of the directions, with the weighted mean of the lengths",
    _WEIGHT,
    flag("normalize_weights", True, "divide weights by their sum"),
    Knob("eps", 1e-8, 0, 1, help="directions cancel if their sum is at most this", has_slope=False),
    parents=(2, None),
    base="optional",
    paper="Goddard et al. 2024, arXiv 2403.13257",
)
def multislerp(given: Operands) -> Merge:
    """Prepare a vector in the direction of sum_i w_i x_i / |x_i| with length sum_i w_i |x_i|.

    If the directions cancel (that sum is at most `eps` long), it is sum_i w_i x_i.
    """

    def weigh(gram: Array, sources: Sources, knobs: Values) -> Array:
        given, switch = [source["weight"] for source in sources], "normalize_weights"
        weights = np.array(normalized(given, switch=switch) if knobs[switch] else given)
        lengths = np.sqrt(gram.diagonal())
        units = weights * _inverse(lengths)
        length = _length(gram, units)
        return weights if length <= knobs["eps"] else units * (weights @ lengths) / length

    return _weighted(weigh, given)


def _length(gram: Array, weights: Array) -> float:
    """Return the length of a weighted sum of vectors."""
    return float(np.sqrt(np.maximum(weights @ gram @ weights, 0.0)))


def _inverse(lengths: Array) -> Array:
    """Return 1 / length, and 0 for the length 0."""
    return np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths != 0)


@method(
    "direction with the smallest sum of squared angles, with the mean of the lengths",
    Knob("max_iter", 10.0, 1, 100_000, kind="integer", help="largest number of iterations"),
    Knob("tol", 1e-5, 0, 1, help="stop if a step is at most this long (radians)", has_slope=False),
    parents=(2, None),
    paper="Karcher 1977, doi 10.1002/cpa.3160300502",
)
def karcher(given: Operands) -> Merge:
    """Prepare the direction of smallest sum of squared angles to x_i, with their mean length."""
    return _weighted(_weigh_karcher, given)


def _weigh_karcher(gram: Array, _: Sources, knobs: Values) -> Array:
    """Iterate m <- exp_m(mean_i log_m(u_i)), where m is a weighted sum of the unit vectors u_i."""
    lengths = np.sqrt(gram.diagonal())
    inverse, share = _inverse(lengths), 1 / len(gram)
    cosines = gram * inverse * inverse[:, None]
    point = _unit(cosines, np.full(len(gram), share))
    for _iteration in range(int(knobs["max_iter"])):
        along = np.clip(cosines @ point, -1, 1)
        angles = np.arccos(along)
        # angle / sin(angle); the direction away from the opposite of m is undecided.
        pulls = share / np.where(np.sin(angles) > 1e-9, np.sinc(angles / np.pi), 1.0)
        step = pulls - (pulls @ along) * point
        size = _length(cosines, step)
        if size <= knobs["tol"]:
            break
        point = _unit(cosines, point * np.cos(size) + step * np.sin(size) / size)
    weights: Array = point * lengths.mean() * inverse
    return weights


def _unit(cosines: Array, weights: Array) -> Array:
    """Return a weighted sum of unit vectors, scaled to the length 1 unless it is nearly 0."""
    length = _length(cosines, weights)
    return weights if length <= 1e-8 else weights / length


@method(
    "between the base and the mean of the sources, by the angle between task vectors",
    flag("filter_wise", False, "one angle for each row, not for the tensor"),
    parents=(2, None),
    base="required",
    paper="Jang et al. 2024, arXiv 2403.19522",
    torch=True,
)
def model_stock(given: Operands) -> Merge:
    """Prepare out = base + t mean_i(x_i - base) with t = N c / (1 + (N - 1) c).

    c is the mean cosine between the N task vectors: one number for the tensor or, with
    `filter_wise`, one for each row. If the denominator is about 0 (1e-8), the result is the base.
    """
    view = rows if given.base.ndim > 1 else flat
    products = row_products(given, view)

    def merge(sources: Sources, knobs: Values, out: Tensor) -> None:
        pairs = products if knobs["filter_wise"] else products.sum(-1, keepdim=True)
        ratio = _ratio(pairs).float().expand(products.shape[-1])
        for at, base, changes, target in blocks(given, out, view):
            target.copy_(base + ratio[at[0], None] * (total(changes) / len(changes)))

    return merge


def _ratio(products: Tensor) -> Tensor:
    """Return t of each row, given the dot products of the task vectors (see `row_products`)."""
    import torch

    count = len(products)
    one, two = torch.tril_indices(count, count, -1)
    lengths = products.diagonal().T.sqrt()
    scale = lengths[one] * lengths[two]
    # The cosine with a vector of zeros is 0.
    cosine = torch.where(scale == 0, 0.0, products[one, two] / scale).mean(0)
    denominator = 1 + (count - 1) * cosine
    return torch.where(denominator.abs() <= 1e-8, 0.0, count * cosine / denominator)
