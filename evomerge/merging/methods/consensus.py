"""Consensus merging: task arithmetic, without the changes that matter to too few sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from evomerge.merging.methods.method import Knob, Merge, Method

if TYPE_CHECKING:
    from evomerge.merging.kernels.compiled import Array
    from evomerge.merging.kernels.noise import Noise


def prepare_consensus(
    tensors: Sequence[Array], base: Array | None, noise: Sequence[Noise], *, reuse: bool
) -> Merge:
    """Prepare out = base + lambda * total, where total = sum_i w_i (x_i - base) is masked.

    The TALL mask of source i is true at an element if |own| > threshold_i * |total - own|, where
    own = w_i (x_i - base): its own change is not small beside what the others add to it. An element
    of total stays if `agree` masks or more are true there, and is 0 otherwise. With `agree` = 2
    this removes the weights that the paper calls selfish (one mask is true) and catastrophic (none
    is); with 1 only the catastrophic ones; with 0 nothing, which is task arithmetic.

    `lambda` is the paper's alpha and `threshold` its lambda. The paper has no weights (all are 1);
    here they are part of the task vectors, so only their ratios change the masks.
    """
    import numpy as np

    from evomerge.merging.kernels.masks import store_agreed
    from evomerge.merging.kernels.overlap import changes
    from evomerge.merging.kernels.passes import write_sum

    assert base is not None
    origin = base.reshape(-1)

    def merge(
        sources: Sequence[Mapping[str, float]], knobs: Mapping[str, float], out: Array
    ) -> None:
        agree = knobs["agree"]
        weights = [source["weight"] for source in sources]
        used = [i for i, weight in enumerate(weights) if weight]
        if agree == 0 or not used:
            write_sum(tensors, weights, out, base, knobs["lambda"])
            return
        factors = np.array([weights[i] for i in used], dtype=np.float32)
        thresholds = np.array([sources[i]["threshold"] for i in used])
        target, scale = out.reshape(-1), np.float32(knobs["lambda"])
        for span, values in changes([tensors[i].reshape(-1) for i in used], origin):
            store_agreed(
                origin[span], values, factors, thresholds, np.float32(agree), scale, target[span]
            )

    return merge


CONSENSUS = Method(
    name="consensus",
    title="sum of task vectors, without the changes that matter to too few sources",
    prepare=prepare_consensus,
    knobs=(
        Knob(
            "weight", 1.0, -100, 100, "source", search=(0.0, 1.0), help="factor on the task vector"
        ),
        Knob(
            "threshold",
            0.4,
            0,
            100,
            "source",
            search=(0.2, 0.6),
            help="smallest ratio of the source's own change to that of the others, for its mask",
        ),
        Knob(
            "agree",
            2.0,
            0,
            100,
            "merge",
            "integer",
            help="masks that must agree on a change",
            counts_sources=True,
        ),
        Knob("lambda", 1.0, -100, 100, "merge", help="factor on the merged task vector"),
    ),
    arrays=True,
    parents=(2, None),
    base="required",
    paper="Wang et al. 2024, arXiv 2405.07813",
    in_mergekit=False,
)
