"""A task vector as compiled loops see it: computed from source and base, never stored."""

from __future__ import annotations

from evomerge.merging.kernels.compiled import Array, compiled, widen
from evomerge.merging.kernels.passes import load_change, scratch


class TaskVector:
    """The difference of a source from the base, computed span by span when it is needed.

    Attributes:
        source: the source's tensor as a flat array of stored weights.
        base: the base's tensor, likewise.
        row_length: elements in a row: the size of the last dimension (1 for a scalar).
    """

    def __init__(self, source: Array, base: Array) -> None:
        self.source, self.base = source.reshape(-1), base.reshape(-1)
        self.row_length = max(source.shape[-1] if source.ndim else 1, 1)

    def __len__(self) -> int:
        return len(self.source)

    def load(self, part: slice, out: Array) -> None:
        """Write a slice of the task vector as float32."""
        load_change(self.source[part], self.base[part], out)

    def magnitudes(self, part: slice | Array) -> Array:
        """Return the magnitudes of a slice, or at indices, in a buffer that is reused."""
        source = self.source[part]
        result = scratch(len(source), "magnitudes")
        _load_magnitudes(source, self.base[part], result)
        return result


@compiled
def _load_magnitudes(source: Array, base: Array, out: Array) -> None:
    for i in range(len(out)):
        out[i] = abs(widen(source[i]) - widen(base[i]))
