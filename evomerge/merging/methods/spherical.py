"""Spherical averages: slerp, nuslerp, multislerp, karcher.

Each method treats a tensor as one vector (nuslerp also each row or column). The result is a
weighted sum of the sources, whose weights depend on the knobs and on the dot products of the
sources. The dot products are computed once, so each candidate needs only the weighted sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from evomerge.merging.methods.linear import normalized
from evomerge.merging.methods.method import Knob, Merge, Method

if TYPE_CHECKING:
    from evomerge.merging.kernels.compiled import Array
    from evomerge.merging.kernels.noise import Noise

    Gram = Sequence[Sequence[float]]
    """The dot product of every pair of vectors (a symmetric matrix)."""

    Weigh = Callable[[Gram, Sequence[Mapping[str, float]], Mapping[str, float]], Sequence[float]]
    """Returns the weight of every source from the dot products, `source` knobs, `merge` knobs."""

PARALLEL = 0.9995
"""slerp interpolates linearly if the absolute value of the cosine is above this."""


def _weighted(weigh: Weigh, tensors: Sequence[Array], base: Array | None) -> Merge:
    """Return a merge that is a weighted sum of the tensors (or of their task vectors).

    Args:
        weigh: computes the weights.
        tensors: the sources.
        base: the base; None to sum the tensors themselves.
    """
    from evomerge.merging.kernels.passes import products, write_sum

    gram = products(tensors, base)

    def merge(
        sources: Sequence[Mapping[str, float]], knobs: Mapping[str, float], out: Array
    ) -> None:
        write_sum(tensors, weigh(gram, sources, knobs), out, base)

    return merge


def prepare_slerp(
    tensors: Sequence[Array], base: Array | None, noise: Sequence[Noise], *, reuse: bool
) -> Merge:
    """Prepare spherical linear interpolation (Shoemake 1985) between the two sources."""
    return _weighted(_weigh_slerp, tensors, None)


def _weigh_slerp(
    gram: Gram, sources: Sequence[Mapping[str, float]], knobs: Mapping[str, float]
) -> Sequence[float]:
    cosine = _cosine(gram[0][0], gram[0][1], gram[1][1])
    if abs(cosine) > PARALLEL:
        return 1 - knobs["t"], knobs["t"]
    return arc_weights(cosine, knobs["t"])


def _cosine(xx: float, xy: float, yy: float) -> float:
    lengths = math.sqrt(xx) * math.sqrt(yy)
    return 0.0 if lengths == 0 else xy / lengths


def arc_weights(cosine: float, t: float) -> tuple[float, float]:
    """Return the weights of two vectors for the point at position t of the arc between them.

    Args:
        cosine: cosine of the angle between the vectors.
        t: 0 is the first vector, 1 the second.
    """
    angle = math.acos(min(max(cosine, -1.0), 1.0)) if cosine == cosine else math.nan
    sine = math.sin(angle)
    if sine < 1e-6 or t in (0, 1):
        return 1 - t, t
    return math.sin((1 - t) * angle) / sine, math.sin(t * angle) / sine


def cosine_of(gram: Gram) -> float:
    """Return the cosine of the angle between two vectors, 0 if one of them is 0.

    A vector of zeros has no direction; random directions are nearly always orthogonal.

    Args:
        gram: their dot products.
    """
    return _cosine(gram[0][0], gram[0][1], gram[1][1])


def prepare_nuslerp(
    tensors: Sequence[Array], base: Array | None, noise: Sequence[Noise], *, reuse: bool
) -> Merge:
    """Prepare slerp at t = w_2 / (w_1 + w_2), between two sources or their task vectors.

    The vectors are whole tensors (`nuslerp_flatten`), their rows, or their columns.
    """
    from evomerge.merging.kernels.passes import products, write_sum
    from evomerge.merging.kernels.rowwise import as_matrix, row_products, write_row_sum

    whole: list[float] = []
    parts: dict[bool, list[Array]] = {}

    def merge(
        sources: Sequence[Mapping[str, float]], knobs: Mapping[str, float], out: Array
    ) -> None:
        t = normalized([source["weight"] for source in sources], switch=None)[1]
        if knobs["nuslerp_flatten"] or tensors[0].ndim < 2:
            if not whole:
                (xx, xy), (_, yy) = products(tensors, base)
                whole.append(_cosine(xx, xy, yy))
            write_sum(tensors, arc_weights(whole[0], t), out, base)
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
    """`arc_weights` for many pairs (x, y) at once, given their dot products."""
    import numpy as np

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


def prepare_multislerp(
    tensors: Sequence[Array], base: Array | None, noise: Sequence[Noise], *, reuse: bool
) -> Merge:
    """Prepare a vector in the direction of sum_i w_i x_i / |x_i| with length sum_i w_i |x_i|."""
    return _weighted(_weigh_multislerp, tensors, base)


def _weigh_multislerp(
    gram: Gram, sources: Sequence[Mapping[str, float]], knobs: Mapping[str, float]
) -> Sequence[float]:
    weights = [source["weight"] for source in sources]
    if knobs["normalize_weights"]:
        weights = normalized(weights, switch="normalize_weights")
    lengths = [math.sqrt(gram[i][i]) for i in range(len(weights))]
    return _scaled_to_length(gram, weights, lengths, _mean_length(weights, lengths), knobs["eps"])


def _mean_length(weights: Sequence[float], lengths: Sequence[float]) -> float:
    return sum(weight * length for weight, length in zip(weights, lengths, strict=True))


def _scaled_to_length(
    gram: Gram, shares: Sequence[float], lengths: Sequence[float], target: float, eps: float
) -> Sequence[float]:
    """Return the weights of the x_i in sum_i share_i x_i / |x_i|, scaled to the length `target`.

    If the unit vectors cancel (the length of that sum is at most `eps`), there is no direction. The
    shares themselves are returned then, which gives a plain weighted sum.

    Args:
        gram: dot products of the x_i.
        shares: one share for each vector.
        lengths: |x_i|.
        target: length of the result.
        eps: see above.
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


def prepare_karcher(
    tensors: Sequence[Array], base: Array | None, noise: Sequence[Noise], *, reuse: bool
) -> Merge:
    """Prepare the Karcher mean: the direction with the smallest sum of squared angles to x_i.

    Its length is the mean length of the sources.
    """
    return _weighted(_weigh_karcher, tensors, None)


def _weigh_karcher(
    gram: Gram, sources: Sequence[Mapping[str, float]], knobs: Mapping[str, float]
) -> Sequence[float]:
    """Return the weights of the Karcher mean.

    Iterates m <- exp_m(mean_i log_m(u_i)), where m is a weighted sum of the unit vectors u_i.
    """
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
    point: Sequence[float] = _scaled_to_length(
        cosines, mean, [1.0 if x else 0.0 for x in lengths], 1.0, 1e-8
    )
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
        point = _scaled_to_length(cosines, moved, [1.0 if x else 0.0 for x in lengths], 1.0, 1e-8)
    return [
        p * target / length if length else 0.0 for p, length in zip(point, lengths, strict=True)
    ]


_WEIGHT = Knob("weight", 1.0, -100, 100, "source", search=(0.0, 1.0), help="share of the source")

SLERP = Method(
    name="slerp",
    title="spherical interpolation from the first source (t = 0) to the second (t = 1)",
    prepare=prepare_slerp,
    knobs=(Knob("t", None, 0, 1, "merge", search=(0.0, 1.0), help="position between the two"),),
    arrays=True,
    parents=(2, 2),
    base="none",
    paper="Shoemake 1985, doi 10.1145/325165.325242",
)

NUSLERP = Method(
    name="nuslerp",
    title="spherical interpolation between two sources or their task vectors, by weights",
    prepare=prepare_nuslerp,
    knobs=(
        _WEIGHT,
        Knob("nuslerp_flatten", 1.0, 0, 1, "merge", "flag", help="treat a tensor as one vector"),
        Knob(
            "nuslerp_row_wise",
            0.0,
            0,
            1,
            "merge",
            "flag",
            help="if not flattened: each column (1) or each row (0) is a vector",
        ),
    ),
    arrays=True,
    parents=(2, 2),
    base="optional",
    paper="Shoemake 1985, doi 10.1145/325165.325242",
)

MULTISLERP = Method(
    name="multislerp",
    title="weighted mean of the directions, with the weighted mean of the lengths",
    prepare=prepare_multislerp,
    knobs=(
        _WEIGHT,
        Knob("normalize_weights", 1.0, 0, 1, "merge", "flag", help="divide weights by their sum"),
        Knob("eps", 1e-8, 0, 1, "merge", help="directions cancel if their sum is at most this"),
    ),
    arrays=True,
    parents=(2, None),
    base="optional",
    paper="Goddard et al. 2024, arXiv 2403.13257",
)

KARCHER = Method(
    name="karcher",
    title="direction with the smallest sum of squared angles, with the mean of the lengths",
    prepare=prepare_karcher,
    knobs=(
        Knob("max_iter", 10.0, 1, 100_000, "merge", "integer", help="largest number of iterations"),
        Knob("tol", 1e-5, 0, 1, "merge", help="stop if a step is at most this long (radians)"),
    ),
    arrays=True,
    parents=(2, None),
    base="none",
    paper="Karcher 1977, doi 10.1002/cpa.3160300502",
)
