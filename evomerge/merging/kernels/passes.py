"""Loops over spans of tensors. A span fits in the cache, so no float32 copy of a tensor is needed.

Where spans begin does not change any bit of a result. Sums are taken over blocks by `dot`, and
added in float64. "Load" converts stored weights (see `compiled`) to float32, and "store" rounds
float32 to the dtype of the output.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from evomerge.errors import CandidateError
from evomerge.merging.kernels.compiled import LANES, Array, compiled, dot, fma, narrow, widen

SPAN = 1 << 16
"""Elements that a pass works on at once; several float32 buffers of this size fit in L2 cache."""

BLOCK = 1 << 11
"""Elements that one `dot` sums. Buffers of this size fit in L1 cache."""

WriteSparse = Callable[[slice, Array], None]
"""Writes a span of a sparse task vector as float32; dropped elements are 0, a NaN stays."""

Sparse = tuple[float, WriteSparse] | None
"""A factor on a sparse task vector, and what writes a span of it without the factor. None if no
element stays."""

_buffers = threading.local()


def spans(size: int, *, row_length: int = 1) -> Iterator[slice]:
    """Yield the spans of `size` elements, in order; each has whole rows of `row_length`."""
    step = max(SPAN // row_length, 1) * row_length
    for start in range(0, size, step):
        yield slice(start, min(start + step, size))


def scratch(size: int, name: str) -> Array:
    """Return the thread's float32 buffer of a name, of `size` elements, with any content."""
    buffer: Array | None = getattr(_buffers, name, None)
    if buffer is None or len(buffer) < size:
        buffer = np.empty(max(size, SPAN), dtype=np.float32)
        setattr(_buffers, name, buffer)
    return buffer[:size]


def loaded(tensors: Sequence[Array], base: Array | None = None) -> Iterator[tuple[slice, Array]]:
    """Yield each span of tensors, or of their changes (tensor - base), with its values.

    They are float32, of shape (tensors, elements of the span), in a buffer that is overwritten.
    """
    sources, start = [it.reshape(-1) for it in tensors], None if base is None else base.reshape(-1)
    for span in spans(len(sources[0])):
        size = span.stop - span.start
        values = scratch(len(sources) * size, "loaded").reshape(len(sources), size)
        for row, source in zip(values, sources, strict=True):
            if start is None:
                load_scaled(source[span], np.float32(1), row)
            else:
                load_change(source[span], start[span], row)
        yield span, values


@compiled
def count_bad(values: Array) -> int:
    """Return how many stored weights are NaN or infinite, after conversion to float32."""
    bad = 0
    for i in range(len(values)):
        value = widen(values[i])
        bad += value - value != np.float32(0)
    return bad


@compiled
def load_scaled(source: Array, factor: np.float32, out: Array) -> None:
    """Write factor * source as float32."""
    for i in range(len(out)):
        out[i] = widen(source[i]) * factor


@compiled
def load_change(source: Array, base: Array, out: Array) -> None:
    """Write source - base as float32."""
    for i in range(len(out)):
        out[i] = widen(source[i]) - widen(base[i])


@compiled
def add_scaled(source: Array, factor: np.float32, total: Array) -> None:
    """Add factor * source to a float32 span."""
    for i in range(len(total)):
        total[i] = fma(widen(source[i]), factor, total[i])


@compiled
def add_change(source: Array, base: Array, factor: np.float32, total: Array) -> None:
    """Add factor * (source - base) to a float32 span."""
    for i in range(len(total)):
        total[i] = fma(widen(source[i]) - widen(base[i]), factor, total[i])


@compiled
def store_changed(base: Array, change: Array, factor: np.float32, out: Array) -> None:
    """Round base + factor * change into a stored span; `change` is float32."""
    for i in range(len(out)):
        out[i] = narrow(fma(change[i], factor, widen(base[i])), out)


@compiled
def store(source: Array, out: Array) -> None:
    """Round a stored span to the dtype of another."""
    for i in range(len(out)):
        out[i] = narrow(widen(source[i]), out)


@compiled
def interpolate(one: Array, two: Array, weight: np.float32, out: Array) -> None:
    """Round (1 - weight) * one + weight * two into a stored span; exact for weights 0 and 1."""
    if abs(weight) < np.float32(0.5):
        for i in range(len(out)):
            start = widen(one[i])
            out[i] = narrow(fma(weight, widen(two[i]) - start, start), out)
    else:
        rest = weight - np.float32(1)
        for i in range(len(out)):
            end = widen(two[i])
            out[i] = narrow(fma(rest, end - widen(one[i]), end), out)


def write_copy(source: Array, out: Array) -> None:
    """Write a tensor into `out`: bit for bit, or rounded once if `out` has another dtype."""
    if source.dtype == out.dtype:
        out[...] = source
    else:
        store(source.reshape(-1), out.reshape(-1))


def write_sum(
    tensors: Sequence[Array],
    weights: Sequence[float],
    out: Array,
    base: Array | None = None,
    scale: float = 1.0,
) -> None:
    """Write sum_i w_i x_i or, with a base, base + scale sum_i w_i (x_i - base).

    A tensor whose weight is 0 is not read.
    """
    used = [(x.reshape(-1), np.float32(w)) for x, w in zip(tensors, weights, strict=True) if w != 0]
    if not used:
        if base is None:
            out[...] = 0
        else:
            write_copy(base, out)
        return
    target, (last, factor) = out.reshape(-1), used[-1]
    if base is None and len(used) == 1 and factor == 1:
        write_copy(last, target)
        return
    if base is None and len(used) == 2 and abs(sum(weights) - 1) < 1e-12:
        interpolate(used[0][0], last, factor, target)
        return
    start = None if base is None else base.reshape(-1)
    for span in spans(len(target)):
        total = scratch(span.stop - span.start, "sum")
        if start is None:
            load_scaled(used[0][0][span], used[0][1], total)
            for source, weight in used[1:]:
                add_scaled(source[span], weight, total)
            store(total, target[span])
        else:
            total[:] = 0
            for source, weight in used:
                add_change(source[span], start[span], weight, total)
            store_changed(start[span], total, np.float32(scale), target[span])


class TaskVector:
    """The differences of a source from a base: computed span by span, and never stored.

    Args:
        noise: the random numbers of the source (`Noise`), for kinds of which a random share stays;
            None for others.
        reuse: whether what all selections need is kept in memory. The result has the same bits.

    Attributes:
        row_length: a span has whole rows of this many elements.
    """

    by_rows = False

    def __init__(self, source: Array, base: Array, noise: Any, *, reuse: bool) -> None:
        self.row_length = max(source.shape[-1], 1) if self.by_rows and source.ndim else 1
        self.source, self.base, self.noise = source.reshape(-1), base.reshape(-1), noise
        self.size = len(self.source)
        if reuse and self.size:
            self.keep()

    def keep(self) -> None:
        """Compute and keep what all selections need."""

    def select(self, rescale: bool, *, density: float) -> Sparse:
        """Return the elements that stay: all (task arithmetic)."""
        return 1.0, self.load

    def load(self, span: slice, out: Array) -> None:
        """Write a span as float32."""
        load_change(self.source[span], self.base[span], out)

    def magnitudes(self, part: slice | Array) -> Array:
        """Return the magnitudes of a span, or at indices, in a buffer that is reused."""
        source = self.source[part]
        values = scratch(len(source), "magnitudes")
        load_change(source, self.base[part], values)
        return np.abs(values, out=values)


def normalized(weights: Sequence[float], switch: str | None = "normalize") -> list[float]:
    """Return the weights divided by their sum; `CandidateError` if that is about 0 (1e-8).

    `switch` is the knob that turns this off, if any.
    """
    total = sum(weights)
    if abs(total) < 1e-8:
        raise CandidateError(
            f"The weights {list(weights)} sum to {total:g} and cannot be normalized; change a "
            f"weight{f' or set {switch} to false' if switch else ''}."
        )
    return [weight / total for weight in weights]


def weight_gradients(
    products: Sequence[float], weights: Sequence[float], normalize: bool, scale: float = 1.0
) -> tuple[list[float], float]:
    """Return the gradients by the weights of scale sum_i w_i x_i, and by the scale.

    `products` are <gradient, x_i>; with `normalize` the weights are divided by their sum.
    """
    total, shares = (sum(weights), normalized(weights)) if normalize else (1.0, weights)
    merged = sum(share * product for share, product in zip(shares, products, strict=True))
    shift = merged if normalize else 0.0  # a larger weight takes from the shares of all others
    return [scale * (product - shift) / total for product in products], merged


def products(tensors: Sequence[Array], base: Array | None = None) -> Array:
    """Return the matrix of dot products of tensors, or of their differences from a base.

    The errors are about 1e-8 of the product of the two lengths.
    """
    sums = np.zeros((len(tensors), len(tensors)))
    for _, values in loaded(tensors, base):
        for row, row_sums in zip(values, sums, strict=True):
            add_gradient_products(row, values, row_sums)
    return sums


def gradient_products(gradient: Array, tensors: Sequence[Array]) -> list[float]:
    """Return the dot products of a flat float32 gradient with tensors."""
    sums = np.zeros(len(tensors))
    for span, values in loaded(tensors):
        add_gradient_products(gradient[span], values, sums)
    return list(map(float, sums))


@compiled
def add_gradient_products(gradient: Array, values: Array, sums: Array) -> None:
    """Add the dot product of a gradient with every float32 row to float64 sums."""
    lanes = np.empty(LANES, dtype=np.float32)
    for at in range(0, len(gradient), BLOCK):
        end = min(at + BLOCK, len(gradient))
        for i in range(len(values)):
            sums[i] += dot(gradient[at:end], values[i, at:end], lanes)
