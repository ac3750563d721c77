"""What an optimizer costs itself, from the figures of benchmarks/overhead.py."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

COSTS: Mapping[str, Mapping[int, tuple[float, float]]] = {
    "cma": {10: (0.10, 1.2), 200: (0.31, 3.3), 1000: (2.1, 21), 4000: (69, 1700)},
    "cma-margin": {10: (0.05, 0.51), 200: (0.96, 9.2), 1000: (69, 680), 4000: (2500, 25000)},
    "tpe": {10: (12, 310), 200: (140, 1800), 1000: (670, 6800)},
}
"""Optimizer -> number of genes -> seconds of CPU time of `ask` and `tell` in a search of 1,000 and
of 10,000 candidates. Where a measurement was stopped it is what was certain by then, so it may be
more. All others take less than 0.02 s a candidate with 4,000 genes."""


def own_seconds(name: str, genes: int, candidates: int) -> float:
    """Return about how many seconds of CPU time an optimizer takes for a search, on one core.

    Figures between and beyond the measured ones follow power laws.

    Returns:
        the seconds; 0 if the optimizer is not in `COSTS`.
    """
    if name not in COSTS:
        return 0.0
    measured = COSTS[name]
    lengths = [
        _power_law(list(measured), [row[i] for row in measured.values()], genes) for i in (0, 1)
    ]
    return _power_law([1000, 10_000], lengths, candidates)


def _power_law(xs: Sequence[float], ys: Sequence[float], x: float) -> float:
    """Return y at x, linear between (and beyond) the points in logarithms of both."""
    right = next((i for i in range(1, len(xs) - 1) if x < xs[i]), len(xs) - 1)
    (a, b), (low, high) = xs[right - 1 : right + 1], ys[right - 1 : right + 1]
    return low * math.pow(x / a, math.log(high / low) / math.log(b / a))
