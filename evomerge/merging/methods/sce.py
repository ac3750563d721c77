"""SCE: select elements by variance, calculate weights by energy, erase changes of minority sign."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from evomerge.merging.methods.method import Knob, Merge, Method

if TYPE_CHECKING:
    from evomerge.merging.kernels.compiled import Array
    from evomerge.merging.kernels.noise import Noise


def prepare_sce(
    tensors: Sequence[Array], base: Array | None, noise: Sequence[Noise], *, reuse: bool
) -> Merge:
    """Prepare SCE, which has three steps.

    - Select: of the n elements that differ between the task vectors, the floor(select_topk n) with
      the largest variance stay (among equal ones, those with the lowest index); the others become
      0. With `select_topk` = 1 all elements stay.
    - Calculate: the weight of a source is the sum of squares of its task vector after selection,
      divided by this sum for all sources: 0 for a source that equals the base.
    - Erase: for each element, the sign of the sum of the task vectors is elected. The weighted mean
      of the changes with this sign is added to the base.
    """
    import numpy as np

    from evomerge.merging.kernels.consensus import write_consensus
    from evomerge.merging.kernels.passes import load_change, scratch, spans, write_copy
    from evomerge.merging.kernels.selection import MagnitudeOrder, find_cut
    from evomerge.merging.kernels.variance import add_energies, load_variance

    assert base is not None
    origin = base.reshape(-1)
    rows = [tensor.reshape(-1) for tensor in tensors]
    count, size = len(rows), len(origin)

    def load(part: slice | Array, values: Array) -> None:
        for row, change in zip(rows, values, strict=True):
            load_change(row[part], origin[part], change)

    def variances(part: slice | Array) -> Array:
        width = len(origin[part])
        changes = scratch(count * width, "varying").reshape(count, width)
        load(part, changes)
        result = scratch(width, "variance")
        load_variance(changes, result)
        return result

    order = MagnitudeOrder(variances, size) if reuse else None
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
            load_variance(values, variance)
            for change in values:
                cut.keep_before(change, variance, span.start)

        return select

    def merge(
        sources: Sequence[Mapping[str, float]], knobs: Mapping[str, float], out: Array
    ) -> None:
        kept = count_kept(knobs["select_topk"])
        if kept == 0:
            write_copy(base, out)
            return
        select, energies = selected(kept), np.zeros(count)
        for span in spans(size):
            values = scratch(count * (span.stop - span.start), "changes").reshape(count, -1)
            select(span, values)
            add_energies(values, energies)
        if energies.sum() == 0:
            write_copy(base, out)
            return
        weights = (energies / energies.sum()).tolist()
        write_consensus(
            select,
            out,
            base,
            factors=[1.0] * count,
            elect=True,
            divisors=weights,
            elected_factors=weights,
        )

    return merge


SCE = Method(
    name="sce",
    title="task vectors where they vary most, weighted by their energy, with elected signs",
    prepare=prepare_sce,
    knobs=(
        Knob(
            "select_topk",
            1.0,
            0,
            1,
            "merge",
            search=(0.1, 1.0),
            help="share of the elements that stay, those of largest variance over the sources",
        ),
        Knob("int8_mask", 0.0, 0, 1, "merge", "flag", help="accepted, changes nothing"),
    ),
    arrays=True,
    parents=(2, None),
    base="required",
    paper="Wan et al. 2024, arXiv 2408.07990",
    cached_bytes=4.0,
)
