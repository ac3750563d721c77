"""SCE: select what varies, calculate weights from its energy, erase the minority's signs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from evomerge.merge.methods.method import Knob, Merge, Method

if TYPE_CHECKING:
    from torch import Tensor

    from evomerge.merge.kernels.compiled import Array
    from evomerge.merge.kernels.noise import Noise


def prepare_sce(
    tensors: Sequence[Tensor], base: Tensor | None, noise: Sequence[Noise], *, reuse: bool
) -> Merge:
    """Prepare SCE.

    Select: of the task vectors, only the floor(select_topk n) elements that vary most over the
    sources stay, lowest index first among equals. Calculate: a source's weight is its share of
    the sum of squares of what stayed. Erase: at each element the sign of the plain sum is
    elected, and the weighted mean of the changes of that sign goes in.
    """
    import numpy as np

    from evomerge.merge.kernels import consensus as agreement
    from evomerge.merge.kernels.compiled import stored
    from evomerge.merge.kernels.passes import load_change, scratch, spans
    from evomerge.merge.kernels.selection import Order, find_cut
    from evomerge.merge.kernels.variance import add_energies, load_variance

    assert base is not None
    origin = stored(base)
    rows = [stored(tensor) for tensor in tensors]
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

    order = Order(variances, size) if reuse else None

    def selected(share: float) -> Callable[[slice, Array], None]:
        """Return what writes a span of every change, of the elements that vary most."""
        kept = int(share * size)
        if kept >= size:
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
        sources: Sequence[Mapping[str, float]], knobs: Mapping[str, float], out: Tensor
    ) -> None:
        if int(knobs["select_topk"] * size) == 0:
            out.copy_(base)
            return
        select, energies = selected(knobs["select_topk"]), np.zeros(count)
        for span in spans(size):
            values = scratch(count * (span.stop - span.start), "changes").reshape(count, -1)
            select(span, values)
            add_energies(values, energies)
        if energies.sum() == 0:
            out.copy_(base)
            return
        weights = (energies / energies.sum()).tolist()
        agreement.write(
            select,
            out,
            base,
            factors=[1.0] * count,
            elect=True,
            shares=weights,
            counted=weights,
        )

    return merge


SCE = Method(
    name="sce",
    title="what varies most, weighted by its energy, where signs agree",
    prepare=prepare_sce,
    knobs=(
        Knob(
            "select_topk",
            1.0,
            0,
            1,
            "merge",
            search=(0.1, 1.0),
            help="share of the elements that stays, by variance over the sources",
        ),
        Knob("int8_mask", 0.0, 0, 1, "merge", "flag", help="accepted, changes nothing"),
    ),
    parents=(2, None),
    base="required",
    paper="Wan et al. 2024, arXiv 2408.07990",
    held=4.0,
)
