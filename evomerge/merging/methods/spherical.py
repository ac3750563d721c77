"""Spherical averages: slerp, nuslerp, multislerp, karcher.

Each method treats a tensor as one vector (nuslerp also each row or column). The result is a
weighted sum of the sources, whose weights depend on the knobs and on the dot products of the
sources. The dot products are computed once, so each candidate needs only the weighted sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from evomerge.merging.kernels.compiled import Array
from evomerge.merging.kernels.passes import (
    as_matrix,
    products,
    row_products,
    write_row_sum,
    write_sum,
)
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

Gram: TypeAlias = Sequence[Sequence[float]]
"""The dot product of every pair of vectors (a symmetric matrix)."""

PARALLEL = 0.9995
"""slerp interpolates linearly if the absolute value of the cosine is above this."""

_T = Knob("t", None, 0, 1, search=(0.0, 1.0), help="position between the two")
_WEIGHT = weight_knob("share of the source")
_SHOEMAKE = "Shoemake 1985, doi 10.1145/325165.325242"


def _weighted(weigh: Callable[[Gram, Sources, Values], Sequence[float]], given: Operands) -> Merge:
    """Return the weighted sum of the sources (or of their task vectors, if there is a base)."""
    gram = products(given.tensors, given.base)

    def merge(sources: Sources, knobs: Values, out: Array) -> None:
        write_sum(given.tensors, weigh(gram, sources, knobs), out, given.base)

    return merge


def cosine_of(gram: Gram) -> float:
    """Return the cosine of the angle between two vectors, given their dot products.

    It is 0 if one of them is 0, which has no direction; random directions are nearly always
    orthogonal.
    """
    lengths = math.sqrt(gram[0][0]) * math.sqrt(gram[1][1])
    return 0.0 if lengths == 0 else gram[0][1] / lengths


def _arc_weights(cosine: float, t: float) -> tuple[float, float]:
    """Return the weights of two vectors for the point at position t (0 to 1) of their arc."""
    angle = math.acos(min(max(cosine, -1.0), 1.0)) if cosine == cosine else math.nan
    sine = math.sin(angle)
    if sine < 1e-6 or t in (0, 1):
        return 1 - t, t
    return math.sin((1 - t) * angle) / sine, math.sin(t * angle) / sine


@method(
    "spherical interpolation from the first source (t = 0) to the second (t = 1)",
    _T,
    parents=(2, 2),
    paper=_SHOEMAKE,
)
def slerp(given: Operands) -> Merge:
    """Prepare spherical linear interpolation (Shoemake 1985) between the two sources."""

    def weigh(gram: Gram, sources: Sources, knobs: Values) -> Sequence[float]:
        cosine, t = cosine_of(gram), knobs["t"]
        return (1 - t, t) if abs(cosine) > PARALLEL else _arc_weights(cosine, t)

    return _weighted(weigh, given)


@method(
    "spherical interpolation between two sources or their task vectors, by weights",
    _WEIGHT,
    flag("nuslerp_flatten", True, "treat a tensor as one vector"),
    flag(
        "nuslerp_row_wise", False, "if not flattened: each column (1) or each row (0) is a vector"
    ),
    parents=(2, 2),
    base="optional",
    paper=_SHOEMAKE,
)
def nuslerp(given: Operands) -> Merge:
    """Prepare slerp at t = w_2 / (w_1 + w_2), between two sources or their task vectors.

    The vectors are whole tensors (`nuslerp_flatten`), their rows, or their columns.
    """
    tensors, base = given.tensors, given.base
    whole: list[float] = []
    parts: dict[bool, list[Array]] = {}

    def merge(sources: Sources, knobs: Values, out: Array) -> None:
        t = normalized([source["weight"] for source in sources], switch=None)[1]
        if knobs["nuslerp_flatten"] or tensors[0].ndim < 2:
            if not whole:
                whole.append(cosine_of(products(tensors, base)))
            write_sum(tensors, _arc_weights(whole[0], t), out, base)
            return
        columns = bool(knobs["nuslerp_row_wise"])
        if columns not in parts:
            one, two = (as_matrix(tensor) for tensor in tensors)
            start = None if base is None else as_matrix(base)
            parts[columns] = [
                row_products(left, right, start, columns=columns)
                for left, right in ((one, one), (one, two), (two, two))
            ]
        weights = _row_arc_weights(t, *parts[columns])
        write_row_sum(tensors, weights, out, base, columns=columns)

    return merge


def _row_arc_weights(t: float, xx: Array, xy: Array, yy: Array) -> tuple[Array, Array]:
    """`_arc_weights` for many pairs (x, y) at once, given their dot products."""
    lengths = np.sqrt(xx) * np.sqrt(yy)
    cosine = np.clip(xy / np.where(lengths == 0, 1.0, lengths), -1, 1)
    angle = np.arccos(cosine)
    sine = np.sin(angle)
    straight = sine < 1e-6
    sine = np.where(straight, 1.0, sine)
    return (
        np.where(straight, 1 - t, np.sin((1 - t) * angle) / sine),
        np.where(straight, t, np.sin(t * angle) / sine),
    )


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
    """Prepare a vector in the direction of sum_i w_i x_i / |x_i| with length sum_i w_i |x_i|."""

    def weigh(gram: Gram, sources: Sources, knobs: Values) -> Sequence[float]:
        weights = [source["weight"] for source in sources]
        if knobs["normalize_weights"]:
            weights = normalized(weights, switch="normalize_weights")
        lengths = [math.sqrt(gram[i][i]) for i in range(len(weights))]
        target = _mean_length(weights, lengths)
        return _scaled_to_length(gram, weights, lengths, target, knobs["eps"])

    return _weighted(weigh, given)


def _mean_length(weights: Sequence[float], lengths: Sequence[float]) -> float:
    return sum(weight * length for weight, length in zip(weights, lengths, strict=True))


def _scaled_to_length(
    gram: Gram, shares: Sequence[float], lengths: Sequence[float], target: float, eps: float
) -> Sequence[float]:
    """Return the weights of the x_i in sum_i share_i x_i / |x_i|, scaled to the length `target`.

    If the unit vectors cancel (the length of that sum is at most `eps`), there is no direction. The
    shares themselves are returned then, which gives a plain weighted sum.
    """
    units = [
        share / length if length else 0.0 for share, length in zip(shares, lengths, strict=True)
    ]
    length = math.sqrt(max(_square(gram, units), 0.0)) if units else 0.0
    if length <= eps:
        return shares
    return [unit * target / length for unit in units]


def _square(gram: Gram, weights: Sequence[float]) -> float:
    """Return the squared length of the weighted sum."""
    square = 0.0
    for i, left in enumerate(weights):
        for j, right in enumerate(weights):
            square += left * right * gram[i][j]
    return square


@method(
    "direction with the smallest sum of squared angles, with the mean of the lengths",
    Knob("max_iter", 10.0, 1, 100_000, kind="integer", help="largest number of iterations"),
    Knob("tol", 1e-5, 0, 1, help="stop if a step is at most this long (radians)", has_slope=False),
    parents=(2, None),
    paper="Karcher 1977, doi 10.1002/cpa.3160300502",
)
def karcher(given: Operands) -> Merge:
    """Prepare the Karcher mean: the direction with the smallest sum of squared angles to x_i.

    Its length is the mean length of the sources.
    """
    return _weighted(_weigh_karcher, given)


def _weigh_karcher(gram: Gram, sources: Sources, knobs: Values) -> Sequence[float]:
    """Iterate m <- exp_m(mean_i log_m(u_i)), where m is a weighted sum of the unit vectors u_i."""
    count = len(gram)
    lengths = [math.sqrt(gram[i][i]) for i in range(count)]
    mean = [1 / count] * count
    target = _mean_length(mean, lengths)
    if target == 0 or target != target:
        return mean
    cosines = [
        [
            gram[i][j] / (lengths[i] * lengths[j]) if lengths[i] and lengths[j] else 0.0
            for j in range(count)
        ]
        for i in range(count)
    ]
    present = [1.0 if length else 0.0 for length in lengths]
    point = _scaled_to_length(cosines, mean, present, 1.0, 1e-8)
    for _ in range(int(knobs["max_iter"])):
        step = [0.0] * count
        for i in range(count):
            cosine = sum(cosines[i][j] * point[j] for j in range(count))
            angle = math.acos(min(max(cosine, -1.0), 1.0))
            pull = mean[i] * (angle / math.sin(angle) if math.sin(angle) > 1e-9 else 1.0)
            step[i] += pull
            step = [s - pull * cosine * p for s, p in zip(step, point, strict=True)]
        size = math.sqrt(max(_square(cosines, step), 0.0))
        if size <= knobs["tol"]:
            break
        moved = [
            p * math.cos(size) + s * math.sin(size) / size for p, s in zip(point, step, strict=True)
        ]
        point = _scaled_to_length(cosines, moved, present, 1.0, 1e-8)
    return [
        p * target / length if length else 0.0 for p, length in zip(point, lengths, strict=True)
    ]
