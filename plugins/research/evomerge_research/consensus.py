"""Consensus merging: task arithmetic, without the changes that matter to too few sources."""

from __future__ import annotations

import numpy as np

from evomerge.merging.kernels.compiled import Array, compiled, fma, narrow, widen
from evomerge.merging.kernels.passes import BLOCK, add_scaled, loaded, spans, write_sum
from evomerge.merging.methods.method import (
    Knob,
    Merge,
    Operands,
    Sources,
    Values,
    method,
    weight_knob,
)


@method(
    "sum of task vectors, without the changes that matter to too few sources",
    weight_knob("factor on the task vector"),
    Knob(
        "threshold",
        0.4,
        0,
        100,
        "source",
        search=(0.2, 0.6),
        help="smallest ratio of the source's own change to that of the others, for its mask",
        has_slope=False,
    ),
    Knob(
        "agree",
        2.0,
        0,
        100,
        kind="integer",
        help="masks that must agree on a change",
        counts_sources=True,
    ),
    Knob("lambda", 1.0, -100, 100, help="factor on the merged task vector"),
    parents=(2, None),
    base="required",
    paper="Wang et al. 2024, arXiv 2405.07813",
    in_mergekit=False,
)
def consensus(given: Operands) -> Merge:
    """Prepare out = base + lambda * total, where total = sum_i w_i (x_i - base) is masked.

    The TALL mask of source i is true at an element if |own| > threshold_i * |total - own|, where
    own = w_i (x_i - base): its own change is not small beside what the others add to it. An element
    of total stays if `agree` masks or more are true there, and is 0 otherwise. With `agree` = 2
    this removes the weights that the paper calls selfish (one mask is true) and catastrophic (none
    is); with 1 only the catastrophic ones; with 0 nothing, which is task arithmetic.

    `lambda` is the paper's alpha and `threshold` its lambda. The paper has no weights (all are 1);
    here they are part of the task vectors, so only their ratios change the masks.
    """
    tensors, base = given.tensors, given.base
    origin = base.reshape(-1)

    def merge(sources: Sources, knobs: Values, out: Array) -> None:
        agree = knobs["agree"]
        weights = [source["weight"] for source in sources]
        used = [i for i, weight in enumerate(weights) if weight]
        if agree == 0 or not used:
            write_sum(tensors, weights, out, base, knobs["lambda"])
            return
        factors = np.array([weights[i] for i in used], dtype=np.float32)
        thresholds = np.array([sources[i]["threshold"] for i in used])
        target, scale = out.reshape(-1), np.float32(knobs["lambda"])
        rows = [tensors[i].reshape(-1) for i in used]
        for span in spans(len(origin)):
            values = loaded(rows, origin, span)
            store_agreed(
                origin[span], values, factors, thresholds, np.float32(agree), scale, target[span]
            )

    return merge


@compiled
def store_agreed(
    base: Array,
    changes: Array,
    weights: Array,
    thresholds: Array,
    agree: np.float32,
    scale: np.float32,
    out: Array,
) -> None:
    """Round base + scale * total into a stored span, or the base where too few masks agree.

    total is the sum of weight * change over the sources. A source's mask is true at an element if
    |own| > threshold * |total - own|, where own is its own weight * change. For the masks, total is
    exact (a float64, and the rest that it leaves), so that neither rounding nor the order of the
    sources decides one; it is exact while the largest change is less than 2^50 times the smallest.
    For the result, total is the float32 sum of task arithmetic, bit for bit. Where that is not
    finite, the result is not either, whatever the masks say.

    Args:
        base: the stored base.
        changes: float32 of shape (sources, elements).
        weights: float32, one number for each source.
        thresholds: float64, one number for each source.
        agree: number of masks that must be true at an element.
        scale: factor on the total.
        out: where the result goes.
    """
    total = np.empty(BLOCK, dtype=np.float32)
    exact = np.empty(BLOCK, dtype=np.float64)
    rest = np.empty(BLOCK, dtype=np.float64)
    votes = np.empty(BLOCK, dtype=np.float32)
    for at in range(0, len(out), BLOCK):
        stop = min(at + BLOCK, len(out))
        total[:] = np.float32(0)
        exact[:] = 0.0
        rest[:] = 0.0
        votes[:] = np.float32(0)
        for k in range(len(changes)):
            add_scaled(changes[k][at:stop], weights[k], total[: stop - at])
            _add_exactly(changes[k][at:stop], np.float64(weights[k]), exact, rest)
        for k in range(len(changes)):
            own, weight = changes[k][at:stop], np.float64(weights[k])
            _add_mask(own, weight, exact, rest, thresholds[k], votes)
        _store_agreed(base[at:stop], total, votes, agree, scale, out[at:stop])


@compiled
def _error(left: float, right: float, total: float) -> float:
    """Return left + right - total, where total is their rounded sum (Knuth's TwoSum)."""
    part = total - left
    return (left - (total - part)) + (right - part)


@compiled
def _add_exactly(change: Array, weight: np.float64, total: Array, rest: Array) -> None:
    for i in range(len(change)):
        own = np.float64(change[i]) * weight  # exact: 24 bits times 24 bits
        before = total[i]
        after = before + own
        rest[i] += _error(before, own, after)
        total[i] = after


@compiled
def _add_mask(
    change: Array,
    weight: np.float64,
    total: Array,
    rest: Array,
    threshold: np.float64,
    votes: Array,
) -> None:
    for i in range(len(change)):
        own = np.float64(change[i]) * weight
        others = total[i] - own
        others += rest[i] + _error(total[i], -own, others)
        votes[i] += np.float32(abs(own) > threshold * abs(others))


@compiled
def _store_agreed(
    base: Array, total: Array, votes: Array, agree: np.float32, scale: np.float32, out: Array
) -> None:
    for i in range(len(out)):
        lost = total[i] - total[i]  # 0, or NaN where the total is not finite
        kept = lost if votes[i] < agree else total[i]
        out[i] = narrow(fma(kept, scale, widen(base[i])), out)
