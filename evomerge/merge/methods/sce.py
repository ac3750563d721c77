"""SCE: select what varies, calculate weights from its energy, erase the minority's signs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from evomerge.merge.method import Knob, Merge, Method
from evomerge.merge.methods.task_vectors import elect_

if TYPE_CHECKING:
    from torch import Tensor

    from evomerge.merge.noise import Noise
    from evomerge.merge.selection import Cut


def prepare_sce(
    tensors: Sequence[Tensor], base: Tensor | None, noise: Sequence[Noise], *, reuse: bool
) -> Merge:
    """Prepare SCE.

    Select: of the task vectors, only the floor(select_topk n) elements that vary most over the
    sources stay, lowest index first among equals. Calculate: a source's weight is its share of
    the sum of squares of what stayed. Erase: at each element the sign of the plain sum is
    elected, and the weighted mean of the changes of that sign goes in.
    """
    from evomerge.merge.passes import flat, load, scratch, spans, total
    from evomerge.merge.selection import Order, find_cut

    assert base is not None
    origin = flat(base)
    rows = [flat(tensor) for tensor in tensors]
    count, size = len(rows), origin.numel()

    def deltas(part: slice) -> list[Tensor]:
        start = load(origin[part], "base")
        return [load(row[part], slot).sub_(start) for slot, row in enumerate(rows)]

    def variances(part: slice) -> Tensor:
        changes = deltas(part)
        mean = scratch(changes[0], "mean").zero_()
        for change in changes:
            mean.add_(change, alpha=1 / count)
        variance = scratch(mean, "variance").zero_()
        for change in changes:
            change.sub_(mean)
            variance.addcmul_(change, change)
        return variance

    order = Order(variances, size) if reuse else None

    def selected(share: float) -> Cut | None:
        """Return the cut of a share that is not all."""
        kept = int(share * size)
        if kept >= size:
            return None
        return order.cut(kept) if order else find_cut(variances, size, kept)

    def select(a: int, b: int, cut: Cut | None) -> list[Tensor]:
        mask = cut.mask(variances(slice(a, b)), a, "mask") if cut else None
        changes = deltas(slice(a, b))
        return changes if mask is None else [change.mul_(mask) for change in changes]

    def merge(
        sources: Sequence[Mapping[str, float]], knobs: Mapping[str, float], out: Tensor
    ) -> None:
        target = flat(out)
        if int(knobs["select_topk"] * size) == 0:
            target.copy_(origin)
            return
        cut = selected(knobs["select_topk"])
        energies = [0.0] * count
        for a, b in spans(origin):
            for i, change in enumerate(select(a, b, cut)):
                energies[i] += total(change.square_())
        everything = sum(energies)
        if everything == 0:
            target.copy_(origin)
            return
        weights = [energy / everything for energy in energies]
        counted = [i for i, weight in enumerate(weights) if weight != 0]
        shares = [weights[i] for i in counted]
        for a, b in spans(origin):
            changes = select(a, b, cut)
            change = scratch(changes[0], "change").zero_()
            for item in changes:
                change.add_(item)
            elect_(change, [changes[i] for i in counted], shares, factors=shares)
            target[a:b].copy_(change.add_(load(origin[a:b], "base")))

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
