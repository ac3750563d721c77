"""SCE: select elements by variance, calculate weights by energy, erase changes of minority sign."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from evomerge.merging.kernels.compiled import LANES, Array, compiled, dot, fma
from evomerge.merging.kernels.consensus import write_consensus
from evomerge.merging.kernels.passes import BLOCK, load_change, scratch, spans, write_copy
from evomerge.merging.kernels.selection import MagnitudeOrder, find_cut
from evomerge.merging.methods.method import Knob, Merge, Operands, Sources, Values, flag, method


@method(
    "task vectors where they vary most, weighted by their energy, with elected signs",
    Knob(
        "select_topk",
        1.0,
        0,
        1,
        search=(0.1, 1.0),
        help="share that stays, by variance",
        has_slope=False,
    ),
    flag("int8_mask", False, "accepted, changes nothing"),
    parents=(2, None),
    base="required",
    paper="Wan et al. 2024, arXiv 2408.07990",
    cached_bytes=4.0,
)
def sce(given: Operands) -> Merge:
    """Prepare SCE, which has three steps.

    - Select: of the n elements that differ between the task vectors, the floor(select_topk n) with
      the largest variance stay (among equal ones, those with the lowest index); the others become
      0. With `select_topk` = 1 all elements stay.
    - Calculate: the weight of a source is the sum of squares of its task vector after selection,
      divided by this sum for all sources: 0 for a source that equals the base.
    - Erase: for each element, the sign of the sum of the task vectors is elected. The weighted mean
      of the changes with this sign is added to the base.
    """
    base, rows = given.base.reshape(-1), [tensor.reshape(-1) for tensor in given.tensors]
    count, size = len(rows), len(base)

    def load(part: slice | Array, values: Array) -> None:
        for row, change in zip(rows, values, strict=True):
            load_change(row[part], base[part], change)

    def variances(part: slice | Array) -> Array:
        width = len(base[part])
        changes = scratch(count * width, "varying").reshape(count, width)
        load(part, changes)
        result = scratch(width, "variance")
        _load_variance(changes, result)
        return result

    order = MagnitudeOrder(variances, size) if given.reuse else None
    varying: list[int] = []

    def count_kept(share: float) -> int:
        """Return how many elements are selected."""
        if share == 1:
            return size
        if not varying:
            varying.append(sum(int(np.count_nonzero(variances(span))) for span in spans(size)))
        return int(share * varying[0])

    def selected(kept: int) -> Callable[[slice, Array], None]:
        """Return the function that writes a span of the task vectors after selection."""
        if kept == size:
            return load
        cut = order.cut(kept) if order else find_cut(variances, size, kept)

        def select(span: slice, values: Array) -> None:
            load(span, values)
            variance = scratch(values.shape[1], "variance")
            _load_variance(values, variance)
            for change in values:
                cut.keep_before(change, span.start, variance)

        return select

    def merge(sources: Sources, knobs: Values, out: Array) -> None:
        kept, energies = count_kept(knobs["select_topk"]), np.zeros(count)
        if kept:
            select = selected(kept)
            for span in spans(size):
                values = scratch(count * (span.stop - span.start), "changes").reshape(count, -1)
                select(span, values)
                _add_energies(values, energies)
        if energies.sum() == 0:
            write_copy(given.base, out)
            return
        weights = (energies / energies.sum()).tolist()
        write_consensus(
            select,
            out,
            given.base,
            factors=[1.0] * count,
            elect=True,
            divisors=weights,
            elected_factors=weights,
        )

    return merge


@compiled
def _load_variance(changes: Array, out: Array) -> None:
    """Write, for each element, the sum of squared differences from the mean over the sources.

    `changes` has the shape (sources, elements).
    """
    count = len(changes)
    share = np.float32(1 / count)
    mean = np.empty(BLOCK, dtype=np.float32)
    for at in range(0, len(out), BLOCK):
        size = min(BLOCK, len(out) - at)
        # Distances are measured from the first source, so equal changes vary by exactly 0.
        first = changes[0, at : at + size]
        mean[:] = np.float32(0)
        for k in range(1, count):
            for i in range(size):
                mean[i] = fma(changes[k, at + i] - first[i], share, mean[i])
        out[at : at + size] = np.float32(0)
        for k in range(count):
            for i in range(size):
                distance = changes[k, at + i] - first[i] - mean[i]
                out[at + i] = fma(distance, distance, out[at + i])


@compiled
def _add_energies(changes: Array, energies: Array) -> None:
    """Add the sum of squares of each source's changes to its energy (float64)."""
    size = changes.shape[1]
    lanes = np.empty(LANES, dtype=np.float32)
    for at in range(0, size, BLOCK):
        end = min(at + BLOCK, size)
        for k in range(len(changes)):
            energies[k] += dot(changes[k, at:end], changes[k, at:end], lanes)
