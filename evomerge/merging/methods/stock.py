"""Model Stock: interpolation between the base and the mean of the sources."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from evomerge.merging.kernels.compiled import Array
from evomerge.merging.kernels.passes import (
    as_matrix,
    products,
    row_products,
    write_row_sum,
    write_sum,
)
from evomerge.merging.methods.method import Merge, Operands, Sources, Values, flag, method


@method(
    "between the base and the mean of the sources, by the angle between task vectors",
    flag("filter_wise", False, "one angle for each row, not for the tensor"),
    parents=(2, None),
    base="required",
    paper="Jang et al. 2024, arXiv 2403.19522",
)
def model_stock(given: Operands) -> Merge:
    """Prepare out = base + t mean_i(x_i - base) with t = N c / (1 + (N - 1) c).

    c is the mean cosine between the task vectors of the N sources: one number for the tensor or,
    with `filter_wise`, one for each row. If the denominator is 0 (at most 1e-8), the task vectors
    cancel, and the result is the base.
    """
    tensors, base, count = given.tensors, given.base, len(given.tensors)
    whole: list[float] = []
    rows: list[Array] = []

    def merge(sources: Sources, knobs: Values, out: Array) -> None:
        if not knobs["filter_wise"] or base.ndim < 2:
            if not whole:
                whole.append(_ratio(_mean_cosine(products(tensors, base)), count))
            write_sum(tensors, [whole[0] / count] * count, out, base)
            return
        if not rows:
            rows.append(_row_ratios(tensors, base))
        write_row_sum(tensors, [rows[0] / count] * count, out, base)

    return merge


def _mean_cosine(gram: Sequence[Sequence[float]]) -> float:
    """Return the mean cosine over all pairs of vectors; that of a pair with a zero vector is 0."""
    cosines = []
    for i in range(len(gram)):
        for j in range(i):
            lengths = math.sqrt(gram[i][i]) * math.sqrt(gram[j][j])
            cosines.append(gram[i][j] / lengths if lengths else 0.0)
    return sum(cosines) / len(cosines)


def _ratio(cosine: float, count: int) -> float:
    """Return t for `count` sources with this mean cosine."""
    denominator = 1 + (count - 1) * cosine
    return 0.0 if abs(denominator) <= 1e-8 else count * cosine / denominator


def _row_ratios(tensors: Sequence[Array], base: Array) -> Array:
    """Return t for every row, as a float64 array."""
    start = as_matrix(base)
    matrices = [as_matrix(tensor) for tensor in tensors]
    lengths = [np.sqrt(row_products(matrix, matrix, start)) for matrix in matrices]
    pairs = [(i, j) for i in range(len(matrices)) for j in range(i)]
    cosine = np.zeros(len(start))
    for i, j in pairs:
        product = lengths[i] * lengths[j]
        dots = row_products(matrices[i], matrices[j], start)
        cosine += np.where(product == 0, 0.0, dots / np.where(product == 0, 1.0, product))
    cosine /= len(pairs)
    count = len(tensors)
    denominator = 1 + (count - 1) * cosine
    gone = np.abs(denominator) <= 1e-8
    result: Array = np.where(gone, 0.0, count * cosine / np.where(gone, 1.0, denominator))
    return result
