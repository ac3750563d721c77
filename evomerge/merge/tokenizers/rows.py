"""Rows of embeddings and heads, matched by token: one parent's matrix in the merged order.

A token that a parent does not have takes, in this order (as mergekit documents it): what the
recipe's `tokens` says; the base's row (the host's, where the recipe names its vocabulary); the
only row there is; the average of the rows there are.
Rows without a token (padding to a multiple, gaps) are the parent's own where its rows keep their
places, else the average of its other rows: a head's score for such a row is then the average of
its scores, which is never the highest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Read = Callable[[str], Tensor]


@dataclass(frozen=True)
class Filling:
    """Where the row of one token comes from in a parent that lacks it.

    Attributes:
        rows: (parent, row) pairs that are averaged; none stands for zeros.
        force: whether it replaces the row of parents that have the token too.
    """

    rows: tuple[tuple[str, int], ...]
    force: bool = False


@dataclass(frozen=True, eq=False)
class MatchedRows:
    """A merged vocabulary whose rows are matched by token.

    Attributes:
        size: rows of the merged matrices, padding included.
        tokens: number of ids that are tokens or gaps between them (1 + the largest id).
        index: row of each merged token in each parent, -1 where it has none, by parent.
        filling: what goes in where a parent has no row, by merged id.
        keeper: the parent whose rows keep their places, or None.
        special_ids: keys of the config whose token ids change.
    """

    size: int
    tokens: int
    index: Mapping[str, Sequence[int]]
    filling: Mapping[int, Filling]
    keeper: str | None
    special_ids: Mapping[str, object]

    def rows(self, parent: str, name: str, read: Read) -> Tensor:
        """Return one parent's matrix with a row for every token of the merged vocabulary.

        Args:
            parent: the parent's reference.
            name: the merged model's name of the matrix, vector or bias.
            read: returns the same matrix of any parent as it is on disk.

        Returns:
            Shape (size, ...), in the parent's dtype; the parent's own memory where nothing moves.
        """
        matrix = read(parent)
        index = torch.tensor(list(self.index[parent]), dtype=torch.int64)
        own = len(matrix)
        padding = torch.arange(len(index), self.size)
        if parent == self.keeper:
            padding = torch.where(padding < own, padding, -1)
        else:
            padding.fill_(-1)
        index = torch.cat([index, padding])
        forced = [i for i, filling in self.filling.items() if filling.force]
        if own == self.size and not forced and torch.equal(index, torch.arange(own)):
            return matrix
        out = matrix.new_empty((self.size, *matrix.shape[1:]))
        torch.index_select(matrix, 0, index.clamp(min=0), out=out)
        absent = torch.nonzero(index < 0).flatten().tolist()
        empty = [i for i in absent if i not in self.filling]
        self._fill(out, [i for i in absent if i in self.filling] + forced, read)
        if empty:
            out[empty] = 0
            out[empty] = (_sum(out) / (self.size - len(empty))).to(out.dtype)
        return out

    def _fill(self, out: Tensor, ids: Sequence[int], read: Read) -> None:
        groups: dict[tuple[str, ...], list[int]] = {}
        for i in ids:
            groups.setdefault(tuple(parent for parent, _ in self.filling[i].rows), []).append(i)
        for parents, alike in groups.items():
            total: Tensor | None = None
            for k, parent in enumerate(parents):
                rows = read(parent)[[self.filling[i].rows[k][1] for i in alike]]
                total = rows if total is None else total.float() + rows
            if total is None:
                out[alike] = 0
            else:
                out[alike] = (total / len(parents) if len(parents) > 1 else total).to(out.dtype)


def _sum(matrix: Tensor) -> Tensor:
    """Return the sum of the rows, over fixed blocks in float64, the same on any thread count."""
    total = torch.zeros(matrix.shape[1:], dtype=torch.float64)
    for block in matrix.split(4096):  # type: ignore[no-untyped-call]
        total += block.double().sum(0)
    return total
