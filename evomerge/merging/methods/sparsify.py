"""Sparsifying a task vector: some of its elements stay, the others become 0.

A `Sparsifier` is made once for a task vector. For every new set of knobs, `sparsify` returns a
factor on the whole task vector and a function that writes any span of the sparse vector. `rescale`
keeps the expected L1 norm of the task vector; for DARE the factor is 1 / density, as in its paper.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np

from evomerge.merging.kernels.compiled import LANES, Array, compiled, widen
from evomerge.merging.kernels.noise import LOWEST, STEPS, Noise, rounded_probability
from evomerge.merging.kernels.passes import BLOCK, load_change, scratch, spans
from evomerge.merging.kernels.selection import MagnitudeCut, MagnitudeOrder, find_cut
from evomerge.merging.methods.method import Knob, Values

WriteSparse = Callable[[slice, Array], None]
"""Writes a span of the sparse task vector as float32; dropped elements are 0, a NaN stays."""

Sparsified = tuple[float, WriteSparse] | None
"""A factor on the sparse task vector, and what writes a span of it without the factor. None if no
element stays."""


class Sparsifier:
    """Chooses which elements of one task vector stay; this one keeps all (task arithmetic).

    The task vector, source - base, is computed span by span when it is needed, and never stored.

    Args:
        noise: the random numbers of the source; only the random sparsifiers use them.
        reuse: whether `sparsify` will be called for many candidates, so that what does not depend
            on the knobs is kept in memory. The result has the same bits.

    Attributes:
        stays: what stays, in the titles of methods.
        paper, random, cached_bytes: see `Method`.
        knobs: more knobs of each source than `weight` and `density`.
        rescale: default of the knob.
    """

    stays = "task vectors"
    paper = "Ilharco et al. 2023, arXiv 2212.04089"
    random = False
    cached_bytes = 0.0
    knobs: ClassVar[tuple[Knob, ...]] = ()
    rescale = False

    def __init__(self, source: Array, base: Array, noise: Noise | None, *, reuse: bool) -> None:
        self.source, self.base = source.reshape(-1), base.reshape(-1)
        self.size = len(self.source)

    def sparsify(self, knobs: Values, *, rescale: bool) -> Sparsified:
        """Return the sparse task vector for these knobs of its source."""
        return 1.0, self.load

    def load(self, span: slice, out: Array) -> None:
        """Write a span of the whole task vector as float32."""
        load_change(self.source[span], self.base[span], out)

    def magnitudes(self, part: slice | Array) -> Array:
        """Return the magnitudes of a span, or at indices, in a buffer that is reused."""
        source = self.source[part]
        values = scratch(len(source), "magnitudes")
        load_change(source, self.base[part], values)
        return np.abs(values, out=values)


class Magnitude(Sparsifier):
    """Of n elements, the floor(density n) of largest magnitude stay (TIES; Yadav et al. 2023).

    Among equal magnitudes, the lowest index stays first.
    """

    stays = "the largest changes"
    paper = "Yadav et al. 2023, arXiv 2306.01708"
    cached_bytes = 4.0

    def __init__(self, source: Array, base: Array, noise: Noise | None, *, reuse: bool) -> None:
        super().__init__(source, base, noise, reuse=reuse)
        self._order = MagnitudeOrder(self.magnitudes, self.size) if reuse else None

    def sparsify(self, knobs: Values, *, rescale: bool) -> Sparsified:
        """Return the sparse task vector for these knobs of its source."""
        count = int(knobs["density"] * self.size)
        skipped = min(int(knobs.get("gamma", 0) * self.size), self.size - count)
        if count <= 0:
            return None
        if not skipped and count >= self.size:
            return 1.0, self.load
        lower = self._cut(skipped + count)
        upper = self._cut(skipped) if skipped else None

        def write(span: slice, out: Array) -> None:
            self.load(span, out)
            lower.clear(out, span.start, before=False)
            if upper is not None:
                upper.clear(out, span.start, before=True)

        return (self._factor(write) if rescale else 1.0), write

    def _cut(self, count: int) -> MagnitudeCut:
        if self._order is not None:
            return self._order.cut(count)
        return find_cut(self.magnitudes, self.size, count)

    def _factor(self, write: WriteSparse) -> float:
        """Return the L1 norm of the task vector divided by that of the sparse one."""
        whole = kept = 0.0
        for span in spans(self.size):
            values = scratch(span.stop - span.start, "sparse")
            write(span, values)
            kept += _sum(np.abs(values))
            whole += _sum(self.magnitudes(span))
        return whole / kept if kept else 1.0


def _sum(values: Array) -> float:
    """Return the sum of a float32 span, in the order in which `dot` adds."""
    padded = np.zeros(-(-len(values) // BLOCK) * BLOCK, dtype=np.float32)
    padded[: len(values)] = values
    lanes = padded.reshape(-1, BLOCK // LANES, LANES).sum(1)
    return float(lanes.cumsum(dtype=np.float64)[-1])


class MagnitudeOutliers(Magnitude):
    """Of n elements, the floor(gamma n) largest are dropped and the next floor(density n) stay.

    If these are more than n together, fewer of the largest are dropped (Breadcrumbs; Davari and
    Belilovsky 2023).
    """

    stays = "the changes that are neither among the largest nor the smallest"
    paper = "Davari and Belilovsky 2023, arXiv 2312.06795"
    knobs = (Knob("gamma", 0.01, 0, 1, "source", help="share that is too large", has_slope=False),)


class Bernoulli(Sparsifier):
    """Each element stays with the probability `density` (DARE; Yu et al. 2024)."""

    stays = "a random share of each task vector"
    paper = "Yu et al. 2024, arXiv 2311.03099"
    random, cached_bytes, rescale = True, 2.0, True

    def __init__(self, source: Array, base: Array, noise: Noise | None, *, reuse: bool) -> None:
        super().__init__(source, base, noise, reuse=reuse)
        assert noise is not None
        self._noise = noise
        self._kept = noise.array(0, self.size) if reuse else None

    def sparsify(self, knobs: Values, *, rescale: bool) -> Sparsified:
        """Return the sparse task vector for these knobs of its source."""
        probability = rounded_probability(knobs["density"])
        if probability in (0, 1):
            return (1.0, self.load) if probability else None
        limit = np.int32(LOWEST + round(probability * STEPS))

        def write(span: slice, out: Array) -> None:
            _load_random(self.source[span], self.base[span], self.draws(span), limit, out)

        return (1 / probability if rescale else 1.0), write

    def draws(self, span: slice) -> Array:
        """Return the random numbers (int16) of a span, kept in memory or drawn again."""
        if self._kept is not None:
            return self._kept[span]
        return self._noise.array(span.start, span.stop)


@compiled
def _load_random(source: Array, base: Array, draws: Array, limit: np.int32, out: Array) -> None:
    """Write the elements of a task vector whose draw is below `limit`, 0 for others; NaN stays."""
    for i in range(len(out)):
        stays = np.float32(1) if draws[i] < limit else np.float32(0)
        out[i] = (widen(source[i]) - widen(base[i])) * stays


class MagPrune(Bernoulli):
    """Large elements of a row stay with a higher probability (DELLA; Deep et al. 2024).

    Within a row, the probability rises with the rank of the magnitude: from density - epsilon for
    the smallest element to density + epsilon for the largest. If one of these is outside of 0 .. 1,
    a smaller epsilon is used, so that the mean probability is still the density. Each row is
    rescaled by a factor of its own.

    For the ranks, magnitudes are compared to 9 significant bits; among equal ones the higher index
    ranks higher.
    """

    stays = "a random share of each task vector, large changes likelier"
    paper = "Deep et al. 2024, arXiv 2406.11617"
    cached_bytes = 4.0
    knobs = (Knob("epsilon", 0.15, 0, 1, "source", help="spread of density", has_slope=False),)

    def __init__(self, source: Array, base: Array, noise: Noise | None, *, reuse: bool) -> None:
        super().__init__(source, base, noise, reuse=reuse)
        self.row_length = row_length(source)
        self._cached: tuple[Array, Array] | None = None
        if reuse:
            ranks = np.empty(self.size, dtype=np.int16)
            means = np.empty(self.size // self.row_length, dtype=np.float32)
            for span in spans(self.size, row_length=self.row_length):
                rows = slice(span.start // self.row_length, span.stop // self.row_length)
                ranks[span], means[rows] = self._ranks(span)
            self._cached = ranks, means

    def sparsify(self, knobs: Values, *, rescale: bool) -> Sparsified:
        """Return the sparse task vector for these knobs of its source."""
        density = knobs["density"]
        if density in (0, 1):
            return (1.0, self.load) if density else None
        epsilon = min(knobs["epsilon"], density, 1 - density)
        least, spread = np.float32(density - epsilon), np.float32(2 * epsilon)
        line = spread, np.float32(LOWEST + density * STEPS)

        def write(span: slice, out: Array) -> None:
            ranks, mean_ranks = self._ranks(span)
            factors = 1 / (least + spread * mean_ranks) if rescale else np.ones_like(mean_ranks)
            task_vector = self.source[span], self.base[span]
            _load_ranked(*task_vector, self.draws(span), ranks, line, factors, out)

        return 1.0, write

    def _ranks(self, span: slice) -> tuple[Array, Array]:
        """Return the rank of each element of a span (flat), and the mean rank of each row."""
        row = self.row_length
        if self._cached is not None:
            ranks, mean_ranks = self._cached
            return ranks[span], mean_ranks[span.start // row : span.stop // row]
        ranks, mean_ranks = row_ranks(self.magnitudes(span).reshape(-1, row))
        return ranks.reshape(-1), mean_ranks


@compiled
def _load_ranked(
    source: Array,
    base: Array,
    draws: Array,
    ranks: Array,
    line: tuple[np.float32, np.float32],
    factors: Array,
    out: Array,
) -> None:
    """Write the elements of a task vector whose draw is below slope * rank + middle (`line`).

    They are multiplied by the factor of their row; the others become 0 (NaN stays NaN).
    """
    (slope, middle), length = line, len(out) // len(factors)
    for row in range(len(factors)):
        part = slice(row * length, (row + 1) * length)
        end, start, draw, rank = source[part], base[part], draws[part], ranks[part]
        factor, target = factors[row], out[part]
        for i in range(length):
            bound = np.float32(rank[i]) * slope + middle
            stays = np.float32(1) if np.float32(draw[i]) < bound else np.float32(0)
            target[i] = (widen(end[i]) - widen(start[i])) * stays * factor


def row_length(tensor: Array) -> int:
    """Return the elements of a row: the size of the last dimension (1 for a scalar)."""
    return max(tensor.shape[-1] if tensor.ndim else 1, 1)


def row_ranks(magnitudes: Array) -> tuple[Array, Array]:
    """Return the rank of each element of a float32 matrix in its row, and each row's mean rank.

    Ranks are int16, from -32768 (smallest) to 32767 (largest). A mean rank is that of the row's
    ranks, weighted by magnitude and mapped to 0 .. 1 (1/2 for a row of zeros).
    """
    width = magnitudes.shape[1]
    kind = np.dtype(np.uint32 if width <= 1 << 16 else np.uint64)
    # Magnitude in the upper half of a key, column in the lower half.
    keys: Array = (magnitudes.view(np.uint32) >> 15).astype(kind)
    keys <<= 4 * kind.itemsize
    keys |= np.arange(width, dtype=kind)
    keys.sort(axis=1)
    codes = np.zeros(1, dtype=np.int16)  # the rank of each place of a sorted row
    if width > 1:
        steps = np.arange(width, dtype=np.float64) * ((STEPS - 1) / (width - 1))
        codes = (np.round(steps) + LOWEST).astype(np.int16)
    ranks = np.empty(magnitudes.shape, dtype=np.int16)
    mean_ranks = np.empty(len(magnitudes), dtype=np.float32)
    _rank(magnitudes, keys, codes, ranks, mean_ranks)
    return ranks, mean_ranks


@compiled
def _rank(magnitudes: Array, order: Array, codes: Array, ranks: Array, mean_ranks: Array) -> None:
    mask = order.dtype.type((1 << (order.itemsize * 4)) - 1)
    for row in range(len(magnitudes)):
        whole = weighted = 0.0
        for place in range(len(codes)):
            column = order[row, place] & mask
            ranks[row, column] = codes[place]
            magnitude = np.float64(magnitudes[row, column])
            whole += magnitude
            weighted += magnitude * codes[place]
        mean = (weighted / whole - LOWEST) / (STEPS - 1) if whole > 0 else 0.5
        mean_ranks[row] = np.float32(mean)
