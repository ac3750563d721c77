"""Task vectors: differences from a base, thinned out, agreed upon, added back.

    out = base + lambda * consensus_i(w_i * thin_i(x_i - base))

One mechanism; a method of the family is a way to thin out and a way to agree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

from evomerge.merge.method import Knob, Merge, Method
from evomerge.merge.methods.linear import normalized

if TYPE_CHECKING:
    from torch import Tensor

    from evomerge.merge.noise import Noise

Thinning = Literal["none", "magnitude", "dare"]
Consensus = Literal["sum", "ties"]


def prepare_task_vectors(
    tensors: Sequence[Tensor],
    base: Tensor | None,
    noise: Sequence[Noise],
    *,
    reuse: bool,
    thinning: Thinning,
    consensus: Consensus,
) -> Merge:
    """Prepare a method of the family."""
    import torch

    from evomerge.merge.noise import STEPS, threshold
    from evomerge.merge.passes import flat, load, scratch, spans
    from evomerge.merge.selection import Order

    assert base is not None
    origin = flat(base)
    rows = [flat(tensor) for tensor in tensors]
    size = origin.numel()
    orders = (
        [Order((row.float() - origin.float()).abs()) for row in rows]
        if thinning == "magnitude"
        else []
    )

    def thinner(i: int, knobs: Mapping[str, float]) -> tuple[float, Callable[[Tensor, int], None]]:
        density = knobs["density"]
        if thinning == "none" or density == 1:
            return 1.0, lambda values, start: None
        if thinning == "magnitude":
            cut = orders[i].cut(int(density * size))
            return 1.0, lambda values, start: (cut.trim_(values, start), None)[1]
        bound = threshold(density)
        probability = (bound + STEPS // 2) / STEPS

        def drop(values: Tensor, start: int) -> None:
            lanes = noise[i].lanes(start, start + values.numel()).to(values.device)
            values.mul_(torch.lt(lanes, bound, out=lanes))

        return 1 / probability, drop

    def merge(
        sources: Sequence[Mapping[str, float]], knobs: Mapping[str, float], out: Tensor
    ) -> None:
        weights = [source["weight"] for source in sources]
        if consensus == "sum" and knobs["normalize"]:
            weights = normalized(weights)
        used = [
            (row, weight, *thinner(i, source))
            for i, (row, weight, source) in enumerate(zip(rows, weights, sources, strict=True))
            if weight != 0 and source["density"] > 0
        ]
        target = flat(out)
        for a, b in spans(origin):
            start = load(origin[a:b], 0)
            total = scratch(start, 1).zero_()
            deltas = []
            for slot, (row, weight, factor, thin) in enumerate(used):
                delta = load(row[a:b], slot + 2).sub_(start)
                thin(delta, a)
                delta.mul_(weight * (factor if knobs["rescale"] else 1.0))
                total.add_(delta)
                deltas.append(delta)
            if consensus == "ties":
                sign = torch.where(total >= 0, 1.0, -1.0)
                total.zero_()
                share = torch.zeros_like(total)
                for delta, (_, weight, _, _) in zip(deltas, used, strict=True):
                    agree = (delta * sign > 0).float()
                    total.add_(delta * agree)
                    share.add_(agree, alpha=abs(weight))
                if knobs["normalize"]:
                    total.div_(torch.where(share > 0, share, 1.0))
            target[a:b].copy_(start.add_(total, alpha=knobs["lambda"]) if used else start)

    return merge


def _method(
    name: str,
    title: str,
    thinning: Thinning,
    consensus: Consensus,
    paper: str,
    *,
    normalize: bool,
    rescale: bool,
) -> Method:
    return Method(
        name=name,
        title=title,
        prepare=partial(prepare_task_vectors, thinning=thinning, consensus=consensus),
        knobs=(
            Knob("weight", 1.0, -100, 100, "source", search=(0.0, 1.0), help="weight of the task"),
            Knob(
                "density",
                1.0,
                0,
                1,
                "source",
                search=None if thinning == "none" else (0.1, 1.0),
                help="share of the task vector that is kept",
            ),
            Knob("lambda", 1.0, -100, 100, "merge", help="factor on the merged task vector"),
            Knob(
                "normalize",
                float(normalize),
                0,
                1,
                "merge",
                "flag",
                help="divide by the weights that went in",
            ),
            Knob(
                "rescale",
                float(rescale),
                0,
                1,
                "merge",
                "flag",
                help="make up for what was dropped",
            ),
            Knob("int8_mask", 0.0, 0, 1, "merge", "flag", help="accepted, changes nothing"),
        ),
        parents=(1, None),
        base="required",
        paper=paper,
        random=thinning == "dare",
    )


_ILHARCO = "Ilharco et al. 2023, arXiv 2212.04089"
_YADAV = "Yadav et al. 2023, arXiv 2306.01708"
_YU = "Yu et al. 2024, arXiv 2311.03099"

TASK_ARITHMETIC = _method(
    "task_arithmetic",
    "sum of task vectors",
    "none",
    "sum",
    _ILHARCO,
    normalize=False,
    rescale=False,
)
TIES = _method(
    "ties",
    "largest changes, where signs agree",
    "magnitude",
    "ties",
    _YADAV,
    normalize=True,
    rescale=False,
)
DARE_LINEAR = _method(
    "dare_linear",
    "random share of each task vector, summed",
    "dare",
    "sum",
    _YU,
    normalize=False,
    rescale=True,
)
DARE_TIES = _method(
    "dare_ties",
    "random share of each task vector, where signs agree",
    "dare",
    "ties",
    _YU,
    normalize=False,
    rescale=True,
)
