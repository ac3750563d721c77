"""Which weights `arcee_fusion` may take from either model, since rounding decides."""

import torch

DIVERGENCE = 16 * 2.0**-24
"""Absolute rounding of a row's divergence in float32: a sum of p log(p / q), where p adds up to 1
and each quotient of two softmaxes is near 1, so a few units in the last place of 1."""


def undecided(source: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """Return where a weight's importance is within rounding of the threshold; bool, as `source`."""
    end, start = (item.double().reshape(-1, source.shape[-1]) for item in (source, base))
    p, q = end.softmax(1) + 1e-8, start.softmax(1) + 1e-8
    apart = (end - start).abs()
    importance = (apart * (p * (p / q).log()).sum(1, keepdim=True)).flatten()
    rounding = DIVERGENCE * apart.flatten()
    last = len(importance) - 1
    ranks = [int(last * share) for share in (0.25, 0.5, 0.75)]
    low, middle, high = importance.sort().values[ranks]
    # The threshold has the rounding of the median and 1.5 times that of both quartiles.
    room = rounding + 4 * rounding.sort().values[ranks[2]]
    near = (importance - (middle + 1.5 * (high - low))).abs() <= room
    return near.reshape(source.shape)
