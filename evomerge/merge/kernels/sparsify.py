"""Thinning a task vector: which of its elements stay, and what makes up for the others.

A thinning is made for one task vector and asked for a plan whenever the knobs change. The plan is
a factor on the whole task vector and a step that writes a span of it, thinned.

`rescale` keeps the expected L1 norm of the task vector: the factor is the sum of magnitudes over
the expected sum of kept magnitudes. For a random share (DARE) that is 1 / density, as in its paper.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
from torch import Tensor

from evomerge.merge.kernels.compiled import LANES, Array, compiled, stored, widen
from evomerge.merge.kernels.noise import LOWEST, STEPS, Noise, chance
from evomerge.merge.kernels.passes import BLOCK, load_change, scratch, spans
from evomerge.merge.kernels.ranks import row_ranks
from evomerge.merge.kernels.selection import Cut, Order, find_cut

Thin = Callable[[slice, Array], None]
"""Writes a span of the task vector as float32, what is dropped as 0."""

Plan = tuple[float, Thin] | None
"""Factor on the task vector and the step, or None where nothing stays."""


class TaskVector:
    """The difference of a source from the base, computed span by span.

    Attributes:
        source: the stored source, flat.
        base: the stored base, flat.
        row: number of elements of a row (the last dimension); the whole of a vector.
    """

    def __init__(self, source: Tensor, base: Tensor) -> None:
        self.source, self.base = stored(source), stored(base)
        self.row = max(source.shape[-1] if source.dim() else 1, 1)

    def __len__(self) -> int:
        return len(self.source)

    def load(self, part: slice, out: Array) -> None:
        """Write a slice as float32."""
        load_change(self.source[part], self.base[part], out)

    def magnitudes(self, part: slice | Array) -> Array:
        """Return the magnitudes of a slice, or of indices, in a scratch buffer."""
        source = self.source[part]
        result = scratch(len(source), "magnitudes")
        _load_magnitudes(source, self.base[part], result)
        return result


@compiled
def _load_magnitudes(source: Array, base: Array, out: Array) -> None:
    for i in range(len(out)):
        out[i] = abs(widen(source[i]) - widen(base[i]))


class Thinning(Protocol):
    """How one task vector is thinned out."""

    def __init__(self, vector: TaskVector, noise: Noise | None, *, reuse: bool) -> None: ...

    def plan(self, knobs: Mapping[str, float], *, rescale: bool) -> Plan:
        """Return what these `source` knobs do."""
        ...


class Keep:
    """Everything stays, whatever the density."""

    def __init__(self, vector: TaskVector, noise: Noise | None, *, reuse: bool) -> None:
        self._vector = vector

    def plan(self, knobs: Mapping[str, float], *, rescale: bool) -> Plan:
        """Return what these `source` knobs do."""
        return 1.0, self._vector.load


class Largest:
    """The floor(density n) elements of largest magnitude stay (TIES; Yadav et al. 2023)."""

    def __init__(self, vector: TaskVector, noise: Noise | None, *, reuse: bool) -> None:
        self.vector = vector
        self._order = Order(vector.magnitudes, len(vector)) if reuse else None

    def plan(self, knobs: Mapping[str, float], *, rescale: bool) -> Plan:
        """Return what these `source` knobs do."""
        return self._band(0, int(knobs["density"] * len(self.vector)), rescale)

    def _band(self, skipped: int, count: int, rescale: bool) -> Plan:
        """Keep `count` elements after the `skipped` largest."""
        if count <= 0:
            return None
        if not skipped and count >= len(self.vector):
            return 1.0, self.vector.load
        lower = self._cut(skipped + count)
        upper = self._cut(skipped) if skipped else None
        source, base = self.vector.source, self.vector.base

        def thin(span: slice, out: Array) -> None:
            lower.load_before(source[span], base[span], span.start, out)
            if upper is not None:
                upper.drop_before(out, span.start)

        return (self._rescaled(thin) if rescale else 1.0), thin

    def _cut(self, count: int) -> Cut:
        if self._order is not None:
            return self._order.cut(count)
        return find_cut(self.vector.magnitudes, len(self.vector), count)

    def _rescaled(self, thin: Thin) -> float:
        whole = kept = 0.0
        for span in spans(len(self.vector)):
            values = scratch(span.stop - span.start, "rescaled")
            whole += _length(self.vector.magnitudes(span))
            thin(span, values)
            kept += _length(values)
        return whole / kept if kept else 1.0


@compiled
def _length(values: Array) -> float:
    """Return the sum of magnitudes (L1 norm) of a float32 row."""
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


class Band(Largest):
    """The gamma n largest go, the floor(density n) next ones stay (Davari and Belilovsky 2023).

    Where density and gamma ask for more than there is, density is kept and fewer largest go.
    """

    def plan(self, knobs: Mapping[str, float], *, rescale: bool) -> Plan:
        """Return what these `source` knobs do."""
        size = len(self.vector)
        count = int(knobs["density"] * size)
        return self._band(min(int(knobs["gamma"] * size), size - count), count, rescale)


class RandomShare:
    """Each element stays with probability density (DARE; Yu et al. 2024)."""

    def __init__(self, vector: TaskVector, noise: Noise | None, *, reuse: bool) -> None:
        assert noise is not None
        self._vector, self._field = vector, _Field(noise, vector, reuse=reuse)

    def plan(self, knobs: Mapping[str, float], *, rescale: bool) -> Plan:
        """Return what these `source` knobs do."""
        probability = chance(knobs["density"])
        if probability in (0, 1):
            return (1.0, self._vector.load) if probability else None
        source, base, field = self._vector.source, self._vector.base, self._field
        limit = np.int32(LOWEST + round(probability * STEPS))

        def thin(span: slice, out: Array) -> None:
            _load_random(source[span], base[span], field.lanes(span), limit, out)

        return (1 / probability if rescale else 1.0), thin


@compiled
def _load_random(source: Array, base: Array, lanes: Array, limit: np.int32, out: Array) -> None:
    """Write a task vector where lanes are below a limit, and 0 (of a NaN, NaN) elsewhere."""
    for i in range(len(out)):
        stays = np.float32(1) if lanes[i] < limit else np.float32(0)
        out[i] = (widen(source[i]) - widen(base[i])) * stays


class RankedShare:
    """The larger an element is in its row, the likelier it stays (DELLA; Deep et al. 2024).

    Within a row, the chance of staying rises with the rank r (0 for the smallest magnitude, 1 for
    the largest) from density - epsilon to density + epsilon. Where that leaves 0 .. 1, epsilon
    is narrowed, so that the mean stays density. Rescaling is per row.

    Ranks are by magnitude to 9 significant bits, higher index above among equals.
    """

    def __init__(self, vector: TaskVector, noise: Noise | None, *, reuse: bool) -> None:
        assert noise is not None
        self.vector, self._field = vector, _Field(noise, vector, reuse=reuse)
        self._held: tuple[Array, Array] | None = None
        if reuse:
            ranks = np.empty(len(vector), dtype=np.int16)
            leans = np.empty(len(vector) // vector.row, dtype=np.float32)
            for span in spans(len(vector), rows_of=vector.row):
                rows = slice(span.start // vector.row, span.stop // vector.row)
                ranks[span], leans[rows] = self._ranks(span)
            self._held = ranks, leans

    def plan(self, knobs: Mapping[str, float], *, rescale: bool) -> Plan:
        """Return what these `source` knobs do."""
        density, row = knobs["density"], self.vector.row
        if density in (0, 1):
            return (1.0, self.vector.load) if density else None
        epsilon = min(knobs["epsilon"], density, 1 - density)
        slope, middle = np.float32(2 * epsilon), np.float32(LOWEST + density * STEPS)
        least, spread = np.float32(density - epsilon), np.float32(2 * epsilon)
        source, base, field = self.vector.source, self.vector.base, self._field

        def thin(span: slice, out: Array) -> None:
            ranks, leans = self._ranks(span)
            factors = 1 / (least + spread * leans) if rescale else np.ones_like(leans)
            lanes = field.lanes(span)
            _load_ranked(source[span], base[span], lanes, ranks, slope, middle, factors, row, out)

        return 1.0, thin

    def _ranks(self, span: slice) -> tuple[Array, Array]:
        """Return the rank of each element, and each row's mean rank weighted by magnitude.

        Returns:
            int16 of -32768 (lowest) to 32767 (highest), and float32 of 0 to 1, one a row.
        """
        row = self.vector.row
        if self._held is not None:
            ranks, leans = self._held
            return ranks[span], leans[span.start // row : span.stop // row]
        ranks, leans = row_ranks(self.vector.magnitudes(span).reshape(-1, row))
        return ranks.reshape(-1), leans


@compiled
def _load_ranked(
    source: Array,
    base: Array,
    lanes: Array,
    ranks: Array,
    slope: np.float32,
    middle: np.float32,
    factors: Array,
    row: int,
    out: Array,
) -> None:
    """Write a task vector where a lane is below what the rank allows, times the row's factor."""
    for r in range(len(factors)):
        a, b = r * row, (r + 1) * row
        bounds = slope, middle
        _load_row(source[a:b], base[a:b], lanes[a:b], ranks[a:b], bounds, factors[r], out[a:b])


@compiled
def _load_row(
    source: Array,
    base: Array,
    lanes: Array,
    ranks: Array,
    bounds: tuple[np.float32, np.float32],
    factor: np.float32,
    out: Array,
) -> None:
    slope, middle = bounds
    for i in range(len(out)):
        bound = np.float32(ranks[i]) * slope + middle
        stays = np.float32(1) if np.float32(lanes[i]) < bound else np.float32(0)
        out[i] = (widen(source[i]) - widen(base[i])) * stays * factor


class _Field:
    """The random field of a task vector: held, or drawn again for every span."""

    def __init__(self, noise: Noise, vector: TaskVector, *, reuse: bool) -> None:
        self._noise = noise
        self._held = noise.lanes(0, len(vector)).numpy() if reuse else None

    def lanes(self, span: slice) -> Array:
        """Return the lanes (int16) of a span."""
        if self._held is not None:
            return self._held[span]
        return self._noise.lanes(span.start, span.stop).numpy()
