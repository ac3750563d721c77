"""Cutting rows of different length into batches with little padding."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Batching:
    """How large batches may be.

    Attributes:
        tokens: most tokens in a batch, padding included; a longer row has a batch of its own.
        rows: most rows in a batch, None for no bound.
        overhead: tokens of padding that are as dear as a further batch.
    """

    tokens: int
    rows: int | None
    overhead: int

    def cut(self, lengths: Sequence[int]) -> list[list[int]]:
        """Return batches of indices into `lengths`, longest rows first.

        The cut minimises, over batches of rows adjacent in length, what is computed (rows x
        longest row) plus the overhead of each batch. It depends on nothing but the lengths, so
        equal rows make equal batches.
        """
        order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
        cost = [0.0] + [float("inf")] * len(order)
        origin = [0] * (len(order) + 1)
        for end in range(1, len(order) + 1):
            for start in range(end - 1, -1, -1):
                rows, area = end - start, lengths[order[start]] * (end - start)
                if rows > 1 and (area > self.tokens or (self.rows and rows > self.rows)):
                    break
                if cost[start] + area + self.overhead < cost[end]:
                    cost[end], origin[end] = cost[start] + area + self.overhead, start
        cuts = [len(order)]
        while cuts[-1]:
            cuts.append(origin[cuts[-1]])
        return [order[a:b] for a, b in itertools.pairwise(reversed(cuts))]

    @property
    def is_least(self) -> bool:
        """Whether batches cannot be made smaller."""
        return self.rows == 1 or self.tokens <= 1

    def halved(self) -> Batching:
        """Return half the size."""
        return replace(self, tokens=self.tokens // 2, rows=self.rows and max(1, self.rows // 2))
