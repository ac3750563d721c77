"""Task vectors: differences from a base, thinned out, agreed upon, added back.

    out = base + lambda * agree_i(w_i * thin_i(x_i - base))

One mechanism, nine methods: a method is a way to thin out (`merge/thinning.py`) and a way to agree:
the sum, or TIES' election, where only the changes of the heavier sign count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

from evomerge.merge.methods.linear import normalized
from evomerge.merge.methods.method import Knob, Merge, Method

if TYPE_CHECKING:
    from torch import Tensor

    from evomerge.merge.kernels.compiled import Array
    from evomerge.merge.kernels.noise import Noise

ThinningName = Literal["Keep", "Largest", "Band", "RandomShare", "RankedShare"]

_RANDOM = ("RandomShare", "RankedShare")


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
    from evomerge.merge.kernels import consensus as agreement
    from evomerge.merge.kernels import sparsify as thinnings
    from evomerge.merge.kernels.passes import write_sum

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
        if thinning == "Keep":
            write_sum(tensors, weights, out, base, knobs["lambda"])
            return
        plans = [
            thin.plan(source, rescale=bool(knobs["rescale"])) if weight else None
            for thin, source, weight in zip(thins, sources, weights, strict=True)
        ]
        used = [(plan, weight) for plan, weight in zip(plans, weights, strict=True) if plan]
        if not used:
            out.copy_(base)
            return

        def changes(span: slice, values: Array) -> None:
            for ((_, thin), _), row in zip(used, values, strict=True):
                thin(span, row)

        agreement.write(
            changes,
            out,
            base,
            factors=[weight * factor for (factor, _), weight in used],
            scale=knobs["lambda"],
            elect=elect,
            shares=[abs(weight) for _, weight in used] if knobs["normalize"] else None,
            rows_of=rows_of,
        )

    return merge


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
