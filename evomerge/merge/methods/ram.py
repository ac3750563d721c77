"""RAM: changes that one source alone makes go in whole, shared ones as their mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from evomerge.merge.method import Knob, Merge, Method

if TYPE_CHECKING:
    from torch import Tensor

    from evomerge.merge.noise import Noise


def prepare_ram(
    tensors: Sequence[Tensor],
    base: Tensor | None,
    noise: Sequence[Noise],
    *,
    reuse: bool,
    plus: bool,
) -> Merge:
    """Prepare RAM, or RAM+ (`plus`).

    A source changes an element where |x - base| > epsilon. An element changed by one source
    takes that change; one changed by several takes the mean of their changes. RAM+ stretches the
    changes that source i makes alone by 1 + r min(overlap_i / alone_i, alpha): the number of
    elements it shares with others over the number it changes alone.
    """
    from evomerge.merge.passes import flat, load, scratch, spans, total

    assert base is not None
    origin = flat(base)
    rows = [flat(tensor) for tensor in tensors]
    stretches: dict[tuple[float, float, float], list[float]] = {}

    def changed(values: Tensor, epsilon: float) -> Tensor:
        import torch

        result = scratch(values, "changed")
        return torch.gt(torch.abs(values, out=result), epsilon, out=result)

    def count(a: int, b: int, epsilon: float) -> tuple[list[Tensor], Tensor]:
        """Return the changes of a span that count (0 elsewhere), and how many do."""
        start = load(origin[a:b], "base")
        changes = [load(row[a:b], slot).sub_(start) for slot, row in enumerate(rows)]
        number = scratch(start, "number").zero_()
        for change in changes:
            mask = changed(change, epsilon)
            number.add_(mask)
            change.mul_(mask)
        return changes, number

    def stretch(epsilon: float, r: float, alpha: float) -> list[float]:
        import torch

        key = (epsilon, r, alpha)
        if key not in stretches:
            alone, shared = [0.0] * len(rows), [0.0] * len(rows)
            for a, b in spans(origin):
                changes, number = count(a, b, epsilon)
                single = torch.eq(number, 1, out=scratch(number, "single"))
                for i, change in enumerate(changes):
                    mask = torch.ne(change, 0, out=scratch(number, "changed"))
                    all_of_it = total(mask)
                    mine = total(mask.mul_(single))
                    alone[i] += mine
                    shared[i] += all_of_it - mine
            stretches.clear()
            stretches[key] = [
                1 + r * min(s / max(n, 1.0), alpha) for s, n in zip(shared, alone, strict=True)
            ]
        return stretches[key]

    def merge(
        sources: Sequence[Mapping[str, float]], knobs: Mapping[str, float], out: Tensor
    ) -> None:
        import torch

        epsilon = knobs["epsilon"]
        extra = [x - 1 for x in stretch(epsilon, knobs["r"], knobs["alpha"])] if plus else None
        target = flat(out)
        for a, b in spans(origin):
            changes, number = count(a, b, epsilon)
            result = scratch(number, "sum").zero_()
            for change in changes:
                result.add_(change)
            if extra:
                single = torch.eq(number, 1, out=scratch(number, "single"))
                for factor, change in zip(extra, changes, strict=True):
                    result.addcmul_(change, single, value=factor)
            result.div_(number.clamp_min_(1))
            target[a:b].copy_(result.add_(load(origin[a:b], "base")))

    return merge


_PAPER = "Behavior Knowledge Merge in Reinforced Agentic Models, 2026"

_EPSILON = Knob("epsilon", 1e-5, 0, 1, "merge", help="smallest change that counts")

RAM = Method(
    name="ram",
    title="changes of one source whole, shared changes as their mean",
    prepare=partial(prepare_ram, plus=False),
    knobs=(_EPSILON,),
    parents=(2, None),
    base="required",
    paper=_PAPER,
)

RAMPLUS = Method(
    name="ramplus",
    title="RAM, with the changes of one source alone stretched",
    prepare=partial(prepare_ram, plus=True),
    knobs=(
        _EPSILON,
        Knob("r", 0.1, 0, 10, "merge", search=(0.0, 1.0), help="strength of the stretch"),
        Knob("alpha", 0.2, 0, 10, "merge", help="largest overlap ratio that counts"),
    ),
    parents=(2, None),
    base="required",
    paper=_PAPER,
)
