"""Grouping rows of different lengths into batches with little padding."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Batching:
    """The size limits of batches, and how to form them.

    Attributes:
        tokens: maximum tokens in a batch, padding included; a longer row is a batch by itself.
        rows: maximum rows in a batch, None for no limit.
        overhead: fixed cost of starting one more batch, expressed in padded tokens.
    """

    tokens: int
    rows: int | None
    overhead: int

    def cut(self, lengths: Sequence[int]) -> list[list[int]]:
        """Return batches of indices into `lengths`, longest rows first.

        Rows are sorted by length and split where the total cost is lowest: the cost of a batch is
        its number of rows x its longest row, plus `overhead`. The result depends only on the
        lengths, so the same rows always form the same batches.
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
        """Whether batches cannot be smaller than with these limits."""
        return self.rows == 1 or self.tokens <= 1

    def halved(self) -> Batching:
        """Return the same limits with half as many tokens and rows."""
        return replace(self, tokens=self.tokens // 2, rows=self.rows and max(1, self.rows // 2))
