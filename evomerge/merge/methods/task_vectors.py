"""Task vectors: differences from a base, thinned out, agreed upon, added back.

    out = base + lambda * agree_i(w_i * thin_i(x_i - base))

One mechanism, nine methods: a method is a way to thin out (`merge/thinning.py`) and a way to agree:
the sum, or TIES' election, where only the changes of the heavier sign count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

from evomerge.merge.method import Knob, Merge, Method
from evomerge.merge.methods.linear import normalized

if TYPE_CHECKING:
    from torch import Tensor

    from evomerge.merge.noise import Noise

ThinningName = Literal["Keep", "Largest", "Band", "RandomShare", "RankedShare"]

_RANDOM = ("RandomShare", "RankedShare")

_SIGN_BIT = -(1 << 31)


def prepare_task_vectors(
    tensors: Sequence[Tensor],
    base: Tensor | None,
    noise: Sequence[Noise],
    *,
    reuse: bool,
    thinning: ThinningName,
    elect: bool,
) -> Merge:
    """Prepare a method of the family.

    Args:
        tensors: the sources.
        base: what task vectors are measured from.
        noise: one a source for the random thinnings, else unused.
        reuse: whether many calls follow.
        thinning: class of `merge/thinning.py`.
        elect: whether the signs are elected (TIES), else the task vectors are summed.
    """
    from evomerge.merge import thinning as thinnings
    from evomerge.merge.passes import load, pieces, scalar, scratch

    assert base is not None
    kind: type[thinnings.Thinning] = getattr(thinnings, thinning)
    vectors = [thinnings.TaskVector(tensor, base) for tensor in tensors]
    thins = [
        kind(vector, noise[i] if thinning in _RANDOM else None, reuse=reuse)
        for i, vector in enumerate(vectors)
    ]
    rows_of = vectors[0].row if thinning == "RankedShare" else 1

    def merge(
        sources: Sequence[Mapping[str, float]], knobs: Mapping[str, float], out: Tensor
    ) -> None:
        weights = [source["weight"] for source in sources]
        if knobs["normalize"] and not elect:
            weights = normalized(weights)
        plans = [
            thin.plan(source, rescale=bool(knobs["rescale"])) if weight else thinnings.DROPPED
            for thin, source, weight in zip(thins, sources, weights, strict=True)
        ]
        used = [i for i, (factor, _) in enumerate(plans) if factor]
        if not used:
            out.copy_(base)
            return
        steps = [plans[i][1] for i in used]
        factors = [weights[i] * plans[i][0] for i in used]
        scalars = [scalar(factor) for factor in factors]
        shares = [abs(weights[i]) for i in used] if knobs["normalize"] else None
        begin = 0
        for origin, target, *parts in pieces(
            [base, out, *(tensors[i] for i in used)], rows_of=rows_of
        ):
            start = load(origin, "base")
            change = scratch(start, "change").zero_()
            changes = []
            for i, (part, step) in enumerate(zip(parts, steps, strict=True)):
                delta = load(part, i if elect else 0).sub_(start)
                if step is not None:
                    step(delta, begin)
                if elect:
                    changes.append(delta.mul_(scalars[i]))
                    change.add_(delta)
                else:
                    change.add_(delta, alpha=factors[i])
            if elect:
                elect_(change, changes, shares)
            target.copy_(start.add_(change, alpha=knobs["lambda"]))
            begin += target.numel()

    return merge


def elect_(
    change: Tensor,
    changes: Sequence[Tensor],
    shares: Sequence[float] | None,
    *,
    factors: Sequence[float] | None = None,
) -> None:
    """Keep what agrees with the elected sign (TIES); overwrite `change` with its sum.

    The sign of `change` is elected, at 0 the positive one. A change of the other sign, or a
    change of 0, does not count. With `shares`, the sum is divided by the shares of those that
    count.

    Args:
        change: float32, the sum of `changes`.
        changes: float32, one a source; overwritten.
        shares: one a source, above 0.
        factors: one a source: factor on its change once the sign is elected.
    """
    import torch

    from evomerge.merge.passes import scalar, scratch

    zero = scalar(0.0)
    bits = change.view(torch.int32)
    sign = torch.bitwise_and(bits, _SIGN_BIT, out=scratch(change, "sign", torch.int32))
    divisor = scratch(change, "divisor")
    change.zero_()
    for i, values in enumerate(changes):
        values.view(torch.int32).bitwise_xor_(sign)
        change.add_(values.clamp_min_(0), alpha=factors[i] if factors else 1)
        if shares:
            agrees = torch.gt(values, zero, out=values)
            if i:
                divisor.add_(agrees, alpha=shares[i])
            else:
                torch.mul(agrees, scalar(shares[0]), out=divisor)
    if shares:
        change.div_(divisor.clamp_min_(min(shares) / 2))
    bits.bitwise_xor_(sign)


def _method(
    name: str,
    title: str,
    paper: str,
    thinning: ThinningName,
    *,
    elect: bool,
    normalize: bool,
    rescale: bool,
    more: tuple[Knob, ...] = (),
    held: float = 0.0,
) -> Method:
    thinned = thinning != "Keep"
    density = Knob(
        "density",
        1.0,
        0 if thinned else 1,
        1,
        "source",
        search=(0.1, 1.0) if thinned else None,
        help="share of the task vector that stays" if thinned else "all of it stays",
    )
    return Method(
        name=name,
        title=title,
        prepare=partial(prepare_task_vectors, thinning=thinning, elect=elect),
        knobs=(
            Knob(
                "weight",
                1.0,
                -100,
                100,
                "source",
                search=(0.0, 1.0),
                help="factor on the task vector",
            ),
            density,
            *more,
            Knob("lambda", 1.0, -100, 100, "merge", help="factor on the merged task vector"),
            Knob(
                "normalize",
                float(normalize),
                0,
                1,
                "merge",
                "flag",
                help="divide by the weights that count",
            ),
            Knob(
                "rescale",
                float(rescale),
                0,
                1,
                "merge",
                "flag",
                help="keep the L1 norm of a thinned task vector",
            ),
            Knob("int8_mask", 0.0, 0, 1, "merge", "flag", help="accepted, changes nothing"),
        ),
        parents=(1, None),
        base="required",
        paper=paper,
        random=thinning in _RANDOM,
        held=held,
    )


_EPSILON = Knob(
    "epsilon", 0.15, 0, 1, "source", help="spread of the chance to stay, either way from density"
)
_GAMMA = Knob("gamma", 0.01, 0, 1, "source", help="share of the largest changes that goes")

TASK_ARITHMETIC = _method(
    "task_arithmetic",
    "sum of task vectors",
    "Ilharco et al. 2023, arXiv 2212.04089",
    "Keep",
    elect=False,
    normalize=False,
    rescale=False,
)
TIES = _method(
    "ties",
    "largest changes, where signs agree",
    "Yadav et al. 2023, arXiv 2306.01708",
    "Largest",
    elect=True,
    normalize=True,
    rescale=False,
    held=4.0,
)
DARE_LINEAR = _method(
    "dare_linear",
    "random share of each task vector, summed",
    "Yu et al. 2024, arXiv 2311.03099",
    "RandomShare",
    elect=False,
    normalize=False,
    rescale=True,
    held=2.0,
)
DARE_TIES = _method(
    "dare_ties",
    "random share of each task vector, where signs agree",
    "Yu et al. 2024, arXiv 2311.03099",
    "RandomShare",
    elect=True,
    normalize=False,
    rescale=True,
    held=2.0,
)
DELLA = _method(
    "della",
    "random share, larger changes likelier, where signs agree",
    "Deep et al. 2024, arXiv 2406.11617",
    "RankedShare",
    elect=True,
    normalize=True,
    rescale=True,
    more=(_EPSILON,),
    held=4.0,
)
DELLA_LINEAR = _method(
    "della_linear",
    "random share, larger changes likelier, summed",
    "Deep et al. 2024, arXiv 2406.11617",
    "RankedShare",
    elect=False,
    normalize=False,
    rescale=True,
    more=(_EPSILON,),
    held=4.0,
)
BREADCRUMBS = _method(
    "breadcrumbs",
    "neither the largest nor the smallest changes, summed",
    "Davari and Belilovsky 2023, arXiv 2312.06795",
    "Band",
    elect=False,
    normalize=False,
    rescale=False,
    more=(_GAMMA,),
    held=4.0,
)
BREADCRUMBS_TIES = _method(
    "breadcrumbs_ties",
    "neither the largest nor the smallest changes, where signs agree",
    "Davari and Belilovsky 2023, arXiv 2312.06795",
    "Band",
    elect=True,
    normalize=False,
    rescale=False,
    more=(_GAMMA,),
    held=4.0,
)
