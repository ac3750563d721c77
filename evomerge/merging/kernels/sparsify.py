"""Sparsifying a task vector: some of its elements stay, the others become 0.

A `Sparsifier` is made once for a task vector. For every new set of knobs, `sparsify` returns a
factor on the whole task vector and a function that writes any span of the sparse vector.

`rescale` keeps the expected L1 norm of the task vector: the factor is the sum of all magnitudes
divided by the expected sum of the magnitudes that stay. For DARE, which keeps elements at random,
this is 1 / density, as in its paper.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

from evomerge.merging.kernels.compiled import LANES, Array, compiled, widen
from evomerge.merging.kernels.noise import LOWEST, STEPS, Noise, rounded_probability
from evomerge.merging.kernels.passes import BLOCK, scratch, spans
from evomerge.merging.kernels.ranks import row_ranks
from evomerge.merging.kernels.selection import Cut, MagnitudeOrder, find_cut
from evomerge.merging.kernels.task_vector import TaskVector

WriteSparse = Callable[[slice, Array], None]
"""Writes a span of the sparse task vector as float32; dropped elements are 0."""

Sparsified = tuple[float, WriteSparse] | None
"""A sparse task vector: a factor on all of it, and the function that writes a span of it (without
the factor). None if no element stays."""


class Sparsifier(Protocol):
    """Chooses which elements of one task vector stay.

    Args:
        vector: the task vector.
        noise: its random numbers; used by the random sparsifiers only.
        reuse: whether `sparsify` will be called for many candidates, so that what does not depend
            on the knobs is computed once and kept in memory. The result has the same bits.
    """

    def __init__(self, vector: TaskVector, noise: Noise | None, *, reuse: bool) -> None: ...

    def sparsify(self, knobs: Mapping[str, float], *, rescale: bool) -> Sparsified:
        """Return the sparse task vector for these knobs of its source.

        Args:
            knobs: every `source` knob.
            rescale: whether the factor compensates for the dropped elements; otherwise it is 1.
        """
        ...


class KeepAll:
    """All elements stay; the density is ignored (task arithmetic)."""

    def __init__(self, vector: TaskVector, noise: Noise | None, *, reuse: bool) -> None:
        self._vector = vector

    def sparsify(self, knobs: Mapping[str, float], *, rescale: bool) -> Sparsified:
        """Return the sparse task vector for these knobs of its source."""
        return 1.0, self._vector.load


class Magnitude:
    """Of n elements, the floor(density n) of largest magnitude stay (TIES; Yadav et al. 2023).

    Among equal magnitudes, the lowest index stays first.
    """

    def __init__(self, vector: TaskVector, noise: Noise | None, *, reuse: bool) -> None:
        self.vector = vector
        self._order = MagnitudeOrder(vector.magnitudes, len(vector)) if reuse else None

    def sparsify(self, knobs: Mapping[str, float], *, rescale: bool) -> Sparsified:
        """Return the sparse task vector for these knobs of its source."""
        return self._select(0, int(knobs["density"] * len(self.vector)), rescale)

    def _select(self, skipped: int, count: int, rescale: bool) -> Sparsified:
        """Drop the `skipped` largest elements and keep the next `count`."""
        if count <= 0:
            return None
        if not skipped and count >= len(self.vector):
            return 1.0, self.vector.load
        lower = self._cut(skipped + count)
        upper = self._cut(skipped) if skipped else None
        source, base = self.vector.source, self.vector.base

        def write(span: slice, out: Array) -> None:
            lower.load_before(source[span], base[span], span.start, out)
            if upper is not None:
                upper.drop_before(out, span.start)

        return (self._factor(write) if rescale else 1.0), write

    def _cut(self, count: int) -> Cut:
        if self._order is not None:
            return self._order.cut(count)
        return find_cut(self.vector.magnitudes, len(self.vector), count)

    def _factor(self, write: WriteSparse) -> float:
        """Return the L1 norm of the task vector divided by that of the sparse one."""
        whole = kept = 0.0
        for span in spans(len(self.vector)):
            values = scratch(span.stop - span.start, "sparse")
            whole += _l1_norm(self.vector.magnitudes(span))
            write(span, values)
            kept += _l1_norm(values)
        return whole / kept if kept else 1.0


@compiled
def _l1_norm(values: Array) -> float:
    """Return the sum of the magnitudes of a float32 array."""
    result = 0.0
    lanes = np.empty(LANES, dtype=np.float32)
    for at in range(0, len(values), BLOCK):
        end = min(at + BLOCK, len(values))
        whole = at + (end - at) // LANES * LANES
        lanes[:] = np.float32(0)
        for start in range(at, whole, LANES):
            for lane in range(LANES):
                lanes[lane] += abs(values[start + lane])
        for i in range(whole, end):
            lanes[i - whole] += abs(values[i])
        for lane in range(LANES):
            result += np.float64(lanes[lane])
    return result


class MagnitudeOutliers(Magnitude):
    """The largest elements are dropped and the next largest stay (Breadcrumbs).

    Of n elements, the floor(gamma n) largest are dropped and the next floor(density n) stay (Davari
    and Belilovsky 2023). If these are more than n together, fewer of the largest are dropped.
    """

    def sparsify(self, knobs: Mapping[str, float], *, rescale: bool) -> Sparsified:
        """Return the sparse task vector for these knobs of its source."""
        size = len(self.vector)
        count = int(knobs["density"] * size)
        return self._select(min(int(knobs["gamma"] * size), size - count), count, rescale)


class Bernoulli:
    """Each element stays with the probability `density` (DARE; Yu et al. 2024)."""

    def __init__(self, vector: TaskVector, noise: Noise | None, *, reuse: bool) -> None:
        assert noise is not None
        self._vector, self._draws = vector, _Draws(noise, vector, reuse=reuse)

    def sparsify(self, knobs: Mapping[str, float], *, rescale: bool) -> Sparsified:
        """Return the sparse task vector for these knobs of its source."""
        probability = rounded_probability(knobs["density"])
        if probability in (0, 1):
            return (1.0, self._vector.load) if probability else None
        source, base, draws = self._vector.source, self._vector.base, self._draws
        limit = np.int32(LOWEST + round(probability * STEPS))

        def write(span: slice, out: Array) -> None:
            _load_random(source[span], base[span], draws.load(span), limit, out)

        return (1 / probability if rescale else 1.0), write


@compiled
def _load_random(source: Array, base: Array, draws: Array, limit: np.int32, out: Array) -> None:
    """Write the elements of a task vector whose draw is below `limit`, 0 for others; NaN stays."""
    for i in range(len(out)):
        stays = np.float32(1) if draws[i] < limit else np.float32(0)
        out[i] = (widen(source[i]) - widen(base[i])) * stays


class MagPrune:
    """Large elements of a row stay with a higher probability (DELLA; Deep et al. 2024).

    Within a row, the probability rises with the rank of the magnitude: from density - epsilon for
    the smallest element to density + epsilon for the largest. If one of these is outside of 0 .. 1,
    a smaller epsilon is used, so that the mean probability is still the density. Each row is
    rescaled by a factor of its own.

    For the ranks, magnitudes are compared to 9 significant bits; among equal ones the higher index
    ranks higher.
    """

    def __init__(self, vector: TaskVector, noise: Noise | None, *, reuse: bool) -> None:
        assert noise is not None
        self.vector, self._draws = vector, _Draws(noise, vector, reuse=reuse)
        self._cached: tuple[Array, Array] | None = None
        if reuse:
            ranks = np.empty(len(vector), dtype=np.int16)
            length = vector.row_length
            mean_ranks = np.empty(len(vector) // length, dtype=np.float32)
            for span in spans(len(vector), row_length=length):
                rows = slice(span.start // length, span.stop // length)
                ranks[span], mean_ranks[rows] = self._ranks(span)
            self._cached = ranks, mean_ranks

    def sparsify(self, knobs: Mapping[str, float], *, rescale: bool) -> Sparsified:
        """Return the sparse task vector for these knobs of its source."""
        density, row_length = knobs["density"], self.vector.row_length
        if density in (0, 1):
            return (1.0, self.vector.load) if density else None
        epsilon = min(knobs["epsilon"], density, 1 - density)
        slope, middle = np.float32(2 * epsilon), np.float32(LOWEST + density * STEPS)
        least, spread = np.float32(density - epsilon), np.float32(2 * epsilon)
        source, base, draws = self.vector.source, self.vector.base, self._draws

        def write(span: slice, out: Array) -> None:
            ranks, mean_ranks = self._ranks(span)
            factors = 1 / (least + spread * mean_ranks) if rescale else np.ones_like(mean_ranks)
            drawn = draws.load(span)
            _load_ranked(
                source[span],
                base[span],
                drawn,
                ranks,
                slope,
                middle,
                factors,
                row_length,
                out,
            )

        return 1.0, write

    def _ranks(self, span: slice) -> tuple[Array, Array]:
        """Return the rank of each element of a span, and the mean rank of each row.

        Returns:
            as `row_ranks`, the ranks as a flat array.
        """
        row = self.vector.row_length
        if self._cached is not None:
            ranks, mean_ranks = self._cached
            return ranks[span], mean_ranks[span.start // row : span.stop // row]
        ranks, mean_ranks = row_ranks(self.vector.magnitudes(span).reshape(-1, row))
        return ranks.reshape(-1), mean_ranks


@compiled
def _load_ranked(
    source: Array,
    base: Array,
    draws: Array,
    ranks: Array,
    slope: np.float32,
    middle: np.float32,
    factors: Array,
    row_length: int,
    out: Array,
) -> None:
    """Write the elements of a task vector whose draw is below the threshold of their rank.

    The threshold is slope * rank + middle. Elements that stay are multiplied by the factor of
    their row; the others become 0 (NaN stays NaN).
    """
    for r in range(len(factors)):
        a, b = r * row_length, (r + 1) * row_length
        bounds = slope, middle
        _load_row(source[a:b], base[a:b], draws[a:b], ranks[a:b], bounds, factors[r], out[a:b])


@compiled
def _load_row(
    source: Array,
    base: Array,
    draws: Array,
    ranks: Array,
    bounds: tuple[np.float32, np.float32],
    factor: np.float32,
    out: Array,
) -> None:
    slope, middle = bounds
    for i in range(len(out)):
        bound = np.float32(ranks[i]) * slope + middle
        stays = np.float32(1) if np.float32(draws[i]) < bound else np.float32(0)
        out[i] = (widen(source[i]) - widen(base[i])) * stays * factor


class _Draws:
    """The random numbers of a task vector, kept in memory or drawn again for every span."""

    def __init__(self, noise: Noise, vector: TaskVector, *, reuse: bool) -> None:
        self._noise = noise
        self._cached = noise.array(0, len(vector)) if reuse else None

    def load(self, span: slice) -> Array:
        """Return the draws (int16) of a span."""
        if self._cached is not None:
            return self._cached[span]
        return self._noise.array(span.start, span.stop)
