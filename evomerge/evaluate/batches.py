"""Cutting rows of different length into batches with little padding."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

_OVERHEAD = 256  # tokens that a further batch may be worth in padding saved


def buckets(lengths: Sequence[int], budget: int, most: int | None = None) -> list[list[int]]:
    """Return batches of indices into `lengths`, longest rows first.

    The cut minimises, over batches of rows adjacent in length, rows x longest row (what is
    computed) plus a constant for each batch. It depends on the lengths alone, so equal rows make
    equal batches.

    Args:
        lengths: tokens of each row.
        budget: most tokens in a batch, padding included; a longer row has a batch of its own.
        most: most rows in a batch, None for no bound.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    best = [0.0] * (len(order) + 1)
    origin = [0] * (len(order) + 1)
    for end in range(1, len(order) + 1):
        best[end] = float("inf")
        for start in range(end - 1, -1, -1):
            longest, rows = lengths[order[start]], end - start
            if rows > 1 and (longest * rows > budget or (most is not None and rows > most)):
                break
            cost = best[start] + longest * rows + _OVERHEAD
            if cost < best[end]:
                best[end], origin[end] = cost, start
    cuts = [len(order)]
    while cuts[-1]:
        cuts.append(origin[cuts[-1]])
    cuts.reverse()
    return [order[a:b] for a, b in itertools.pairwise(cuts)]
