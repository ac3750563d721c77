"""Thinning a task vector: which of its elements stay, and what makes up for the others.

A thinning is made for one task vector and asked for a plan whenever the knobs change. The plan is
a factor on the whole task vector and a step that sets elements of a span to 0.

`rescale` keeps the expected L1 norm of the task vector: the factor is the sum of magnitudes over
the expected sum of kept magnitudes. For a random share (DARE) that is 1 / density, as in its paper.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from evomerge.merge.noise import LOWEST, STEPS, Noise, chance
from evomerge.merge.passes import BLOCK, flat, load, scalar, scratch, spans, total
from evomerge.merge.selection import Cut, Order, find_cut

Thin = Callable[[Tensor, int], None]
"""Sets dropped elements of a float32 span (given with its start) to 0, in place."""

Plan = tuple[float, Thin | None]
"""Factor on the task vector (0: nothing stays) and the step, or None where everything stays."""

DROPPED: Plan = (0.0, None)
WHOLE: Plan = (1.0, None)


class TaskVector:
    """The difference of a source from the base, computed span by span.

    Attributes:
        size: number of elements.
        row: number of elements of a row (the last dimension); the whole of a vector.
    """

    def __init__(self, source: Tensor, base: Tensor) -> None:
        self.source, self.base = flat(source), flat(base)
        self.size = self.source.numel()
        self.row = max(source.shape[-1] if source.dim() else 1, 1)

    def magnitudes(self, part: slice) -> Tensor:
        """Return the magnitudes of a slice, in a scratch buffer."""
        return load(self.source[part], "delta").sub_(load(self.base[part], "base of delta")).abs_()


class Thinning(Protocol):
    """How one task vector is thinned out."""

    def __init__(self, vector: TaskVector, noise: Noise | None, *, reuse: bool) -> None: ...

    def plan(self, knobs: Mapping[str, float], *, rescale: bool) -> Plan:
        """Return what these `source` knobs do."""
        ...


class Keep:
    """Everything stays, whatever the density."""

    def __init__(self, vector: TaskVector, noise: Noise | None, *, reuse: bool) -> None:
        pass

    def plan(self, knobs: Mapping[str, float], *, rescale: bool) -> Plan:
        """Return what these `source` knobs do."""
        return WHOLE


class Largest:
    """The floor(density n) elements of largest magnitude stay (TIES; Yadav et al. 2023)."""

    def __init__(self, vector: TaskVector, noise: Noise | None, *, reuse: bool) -> None:
        self.vector = vector
        self._order = Order(vector.magnitudes, vector.size) if reuse else None

    def plan(self, knobs: Mapping[str, float], *, rescale: bool) -> Plan:
        """Return what these `source` knobs do."""
        return self._band(0, int(knobs["density"] * self.vector.size), rescale)

    def _band(self, skipped: int, count: int, rescale: bool) -> Plan:
        """Keep `count` elements after the `skipped` largest."""
        if count <= 0:
            return DROPPED
        if not skipped and count >= self.vector.size:
            return WHOLE
        lower = self._cut(skipped + count)
        upper = self._cut(skipped) if skipped else None

        def thin(values: Tensor, start: int) -> None:
            if upper is not None:
                largest = upper.trim_(scratch(values, "upper").copy_(values), start)
                lower.trim_(values, start).sub_(largest)
            else:
                lower.trim_(values, start)

        return (self._rescaled(thin) if rescale else 1.0), thin

    def _cut(self, count: int) -> Cut:
        if self._order is not None:
            return self._order.cut(count)
        return find_cut(self.vector.magnitudes, self.vector.size, count)

    def _rescaled(self, thin: Thin) -> float:
        whole = kept = 0.0
        for a, b in spans(self.vector.source):
            magnitudes = self.vector.magnitudes(slice(a, b))
            whole += total(magnitudes)
            thin(magnitudes, a)
            kept += total(magnitudes)
        return whole / kept if kept else 1.0


class Band(Largest):
    """The gamma n largest go, the floor(density n) next ones stay (Davari and Belilovsky 2023).

    Where density and gamma ask for more than there is, density is kept and fewer largest go.
    """

    def plan(self, knobs: Mapping[str, float], *, rescale: bool) -> Plan:
        """Return what these `source` knobs do."""
        size = self.vector.size
        count = int(knobs["density"] * size)
        return self._band(min(int(knobs["gamma"] * size), size - count), count, rescale)


class RandomShare:
    """Each element stays with probability density (DARE; Yu et al. 2024)."""

    def __init__(self, vector: TaskVector, noise: Noise | None, *, reuse: bool) -> None:
        assert noise is not None
        self._lanes = _Lanes(noise, vector, reuse=reuse)

    def plan(self, knobs: Mapping[str, float], *, rescale: bool) -> Plan:
        """Return what these `source` knobs do."""
        probability = chance(knobs["density"])
        if probability in (0, 1):
            return WHOLE if probability else DROPPED
        limit = torch.tensor(LOWEST + round(probability * STEPS), dtype=torch.int16)

        def thin(values: Tensor, start: int) -> None:
            lanes = self._lanes.span(values, start)
            stays = torch.lt(lanes, limit, out=scratch(values, "stays", torch.int16))
            values.mul_(scratch(values, "mask").copy_(stays))

        return (1 / probability if rescale else 1.0), thin


class RankedShare:
    """The larger an element is in its row, the likelier it stays (DELLA; Deep et al. 2024).

    Within a row, the chance of staying rises with the rank r (0 for the smallest magnitude, 1 for
    the largest) from density - epsilon to density + epsilon. Where that leaves 0 .. 1, epsilon
    is narrowed, so that the mean stays density. Rescaling is per row.

    Ranks are by magnitude to 9 significant bits, higher index above among equals.
    """

    def __init__(self, vector: TaskVector, noise: Noise | None, *, reuse: bool) -> None:
        assert noise is not None
        self.vector = vector
        self._lanes = _Lanes(noise, vector, reuse=reuse)
        self._held: dict[int, tuple[Tensor, Tensor]] | None = {} if reuse else None
        if reuse:
            for a, b in spans(vector.source, rows_of=vector.row):
                self._rows(a, vector.magnitudes(slice(a, b)))

    def plan(self, knobs: Mapping[str, float], *, rescale: bool) -> Plan:
        """Return what these `source` knobs do."""
        density = knobs["density"]
        if density in (0, 1):
            return WHOLE if density else DROPPED
        epsilon = min(knobs["epsilon"], density, 1 - density)
        slope, middle = scalar(2 * epsilon), scalar(LOWEST + density * STEPS)

        def thin(values: Tensor, start: int) -> None:
            ranks, lean = self._rows(start, values)
            bounds = scratch(values, "chances").copy_(ranks)
            bounds.mul_(slope).add_(middle)
            lanes = scratch(values, "lanes").copy_(self._lanes.span(values, start))
            values.mul_(torch.lt(lanes, bounds, out=lanes))
            if rescale:
                factors = 1 / ((density - epsilon) + 2 * epsilon * lean)
                values.view(-1, self.vector.row).mul_(factors.unsqueeze(1))

        return 1.0, thin

    def _rows(self, start: int, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return rank of each element, and each row's mean rank weighted by magnitude.

        Returns:
            int16 of -32768 (lowest) to 32767 (highest), and float32 of 0 to 1, one a row.
        """
        if self._held is not None and start in self._held:
            return self._held[start]
        magnitudes = scratch(values, "chances").copy_(values).abs_().view(-1, self.vector.row)
        ranks = _ranks(magnitudes)
        result = ranks.view(-1), _lean(magnitudes, ranks)
        if self._held is not None:
            self._held[start] = result
        return result


class _Lanes:
    """The random field of a task vector: held, or drawn again for every span."""

    def __init__(self, noise: Noise, vector: TaskVector, *, reuse: bool) -> None:
        self._noise = noise
        self._held = noise.lanes(0, vector.size).to(vector.source.device) if reuse else None

    def span(self, values: Tensor, start: int) -> Tensor:
        """Return the lanes (int16) of a span that begins at `start`."""
        stop = start + values.numel()
        if self._held is not None:
            return self._held[start:stop]
        return self._noise.lanes(start, stop).to(values.device)


def _ranks(magnitudes: Tensor) -> Tensor:
    """Return the rank of each element within its row, from -32768 to 32767."""
    rows, width = magnitudes.shape
    bits = magnitudes.cpu().numpy().view(np.uint32) >> 15
    column = np.arange(width, dtype=np.uint32)
    if width <= 1 << 16:
        keys = np.sort((bits << 16) | column, axis=1) & np.uint32(0xFFFF)
    else:
        keys = np.sort((bits.astype(np.uint64) << 32) | column, axis=1) & np.uint64(0xFFFFFFFF)
    steps = np.round(column * ((STEPS - 1) / max(width - 1, 1))) + LOWEST
    codes = torch.from_numpy((steps if width > 1 else np.zeros(1)).astype(np.int16))
    order = torch.from_numpy(keys.astype(np.int64))
    ranks = torch.empty(rows, width, dtype=torch.int16)
    return ranks.scatter_(1, order, codes.expand(rows, width)).to(magnitudes.device)


def _lean(magnitudes: Tensor, ranks: Tensor) -> Tensor:
    """Return the mean rank (0 to 1) of each row, weighted by magnitude; 1/2 for a row of zeros."""
    weighted = scratch(magnitudes, "weighted").view_as(magnitudes).copy_(ranks).mul_(magnitudes)
    whole = _row_totals(magnitudes)
    mean = (_row_totals(weighted) / whole).sub_(LOWEST).div_(STEPS - 1)
    return torch.where(whole > 0, mean, 0.5)


def _row_totals(matrix: Tensor) -> Tensor:
    """Return the sum of each row, float32; the bits do not depend on the threads."""
    width = matrix.shape[1]
    if not matrix.is_cpu:
        return matrix.sum(1)
    if width > BLOCK:
        return torch.tensor([total(row) for row in matrix])
    return torch.cat([part.sum(1) for part in torch.split(matrix, max(BLOCK // width, 1))])
