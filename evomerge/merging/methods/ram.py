"""RAM and RAM+: changes of single sources are kept, changes of several sources are averaged."""

from __future__ import annotations

import numpy as np

from evomerge.merging.kernels.compiled import Array, compiled, narrow, widen
from evomerge.merging.kernels.passes import BLOCK, loaded, spans
from evomerge.merging.methods.method import Knob, Merge, Operands, Sources, Values, method

_PAPER = "Behavior Knowledge Merge in Reinforced Agentic Models, 2026"

_EPSILON = Knob("epsilon", 1e-5, 0, 1, help="smallest change that counts", has_slope=False)


@method(
    "changes that one source makes alone, and the mean of those that several make",
    _EPSILON,
    parents=(2, None),
    base="required",
    paper=_PAPER,
)
def ram(given: Operands) -> Merge:
    """Prepare RAM.

    A source changes an element if |x - base| > epsilon. If one source changes an element, its
    change is added to the base; if several do, the mean of their changes is added.
    """
    return _prepare(given, plus=False)


@method(
    "RAM, with the changes that one source makes alone multiplied by a factor",
    _EPSILON,
    Knob("r", 0.1, 0, 10, search=(0.0, 1.0), help="strength of that factor"),
    Knob("alpha", 0.2, 0, 10, help="upper limit of shared / alone in that factor"),
    parents=(2, None),
    base="required",
    paper=_PAPER,
)
def ramplus(given: Operands) -> Merge:
    """Prepare RAM+: as RAM, but a change that only source i makes is stretched.

    It is multiplied by 1 + r min(shared_i / alone_i, alpha). Here alone_i is the number of elements
    that only source i changes, and shared_i the number that source i and others change.
    """
    return _prepare(given, plus=True)


def _prepare(given: Operands, *, plus: bool) -> Merge:
    base, rows = given.base.reshape(-1), [tensor.reshape(-1) for tensor in given.tensors]
    counts: dict[float, tuple[Array, Array]] = {}

    def overlap(epsilon: float) -> tuple[Array, Array]:
        """Return, for each source, the numbers alone_i and shared_i (see `ramplus`)."""
        if epsilon not in counts:
            alone, shared = np.zeros(len(rows)), np.zeros(len(rows))
            for span in spans(len(base)):
                _count_overlap(loaded(rows, base, span), np.float32(epsilon), alone, shared)
            counts.clear()
            counts[epsilon] = alone, shared
        return counts[epsilon]

    def merge(sources: Sources, knobs: Values, out: Array) -> None:
        epsilon, target = knobs["epsilon"], out.reshape(-1)
        stretch = np.ones(len(rows), dtype=np.float32)
        if plus:
            alone, shared = overlap(epsilon)
            ratios = np.minimum(shared / np.maximum(alone, 1), knobs["alpha"])
            stretch = (1 + knobs["r"] * ratios).astype(np.float32)
        for span in spans(len(base)):
            values = loaded(rows, base, span)
            _store_mean_change(base[span], values, np.float32(epsilon), stretch, target[span])

    return merge


@compiled
def _count_overlap(values: Array, epsilon: np.float32, alone: Array, shared: Array) -> None:
    """Count the elements that each source changes alone, and those that it shares.

    `values` are the changes, of shape (sources, elements). The counts are added to `alone` and
    `shared`, which have a float64 for each source.
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
def _store_mean_change(
    base: Array, values: Array, epsilon: np.float32, stretch: Array, out: Array
) -> None:
    """Round base + the mean of the changes larger than epsilon into a stored span.

    If only one source changes an element, its change is multiplied by the source's `stretch`. A NaN
    is not counted as larger than epsilon, but makes the result NaN.
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
