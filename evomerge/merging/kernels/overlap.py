"""The loops of RAM: counting the elements that several sources change, and averaging changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from evomerge.merging.kernels.compiled import Array, compiled, narrow, widen
from evomerge.merging.kernels.passes import BLOCK, load_change, scratch, spans


def changes(sources: Sequence[Array], base: Array) -> Iterator[tuple[slice, Array]]:
    """Yield every span of the tensors, and the changes (source - base) of all sources in it.

    Yields:
        the span, and a float32 array of shape (sources, elements of the span). The next span
        overwrites it.
    """
    for span in spans(len(base)):
        size = span.stop - span.start
        values = scratch(len(sources) * size, "changes").reshape(len(sources), size)
        for row, source in zip(values, sources, strict=True):
            load_change(source[span], base[span], row)
        yield span, values


@compiled
def count_overlap(values: Array, epsilon: np.float32, alone: Array, shared: Array) -> None:
    """Count the elements that each source changes by more than epsilon.

    Args:
        values: float32 changes of shape (sources, elements).
        epsilon: smallest change that counts.
        alone: float64, one number for each source; the number of elements that only this source
            changes is added to it.
        shared: float64, one number for each source; the number of elements that this source and
            others change is added to it.
    """
    number = np.empty(BLOCK, dtype=np.uint32)
    size = values.shape[1]
    for at in range(0, size, BLOCK):
        count = min(BLOCK, size - at)
        number[:] = np.uint32(0)
        for k in range(len(values)):
            for i in range(count):
                number[i] += np.uint32(abs(values[k, at + i]) > epsilon)
        for k in range(len(values)):
            single = several = np.uint32(0)
            for i in range(count):
                changed = abs(values[k, at + i]) > epsilon
                single += np.uint32(changed & (number[i] == 1))
                several += np.uint32(changed & (number[i] > 1))
            alone[k] += single
            shared[k] += several


@compiled
def store_mean_change(
    base: Array, values: Array, epsilon: np.float32, stretch: Array, out: Array
) -> None:
    """Round base + the mean of the changes larger than epsilon into a stored span.

    If only one source changes an element by more than epsilon, its change is multiplied by the
    source's `stretch`. A NaN is not counted as larger than epsilon, but makes the result NaN.

    Args:
        base: the stored base.
        values: float32 changes of shape (sources, elements).
        epsilon: smallest change that counts.
        stretch: float32, one factor for each source.
        out: where the result goes.
    """
    zero, one = np.float32(0), np.float32(1)
    total = np.empty(BLOCK, dtype=np.float32)
    number = np.empty(BLOCK, dtype=np.float32)
    extra = np.empty(BLOCK, dtype=np.float32)
    for at in range(0, len(out), BLOCK):
        count = min(BLOCK, len(out) - at)
        total[:] = zero
        number[:] = zero
        extra[:] = zero
        for k in range(len(values)):
            more = stretch[k] - one
            for i in range(count):
                change = values[k, at + i]
                changed = one if abs(change) > epsilon else zero
                number[i] += changed
                total[i] += change * changed
                extra[i] += change * changed * more
        for i in range(count):
            mean = total[i] / max(number[i], one)
            mean += extra[i] if number[i] == one else zero
            out[at + i] = narrow(widen(base[at + i]) + mean, out)
