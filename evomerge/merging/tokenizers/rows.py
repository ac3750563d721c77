"""Reordering the rows of a parent's embeddings and head to the ids of the merged vocabulary.

If a parent does not have a token, the row of the token comes from the first of these that exists
(mergekit documents the same order): the recipe's option `tokens`; the base's row (the host's, if
the recipe has a `vocabulary`); the row of the only parent that has the token; the average of the
rows of all parents that have it.

Padding and unused ids are rows without a token. They are copied from the parent that gives the
tokenizer, if it has these rows. Otherwise they are the average of the matrix's other rows: the
logit of such a row is the average of the other logits, and so never the highest one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

Read: TypeAlias = "Callable[[str], Tensor]"


@dataclass(frozen=True)
class Filling:
    """Where the row of one token comes from in parents that do not have the token.

    Attributes:
        rows: (parent, row) pairs that are averaged; if empty, the row is all zeros.
        force: whether this row also replaces the row of parents that have the token.
    """

    rows: tuple[tuple[str, int], ...]
    force: bool = False


@dataclass(frozen=True, eq=False)
class MatchedRows:
    """A merged vocabulary whose rows are matched by token.

    Attributes:
        size: number of rows of the merged matrices, with padding.
        tokens: 1 + the largest id of a token.
        index: parent -> for each id of the merged vocabulary the row in the parent, or -1.
        filling: id -> where the row comes from in parents that do not have the token.
        keeper: the parent whose rows stay at their indices (it gives the tokenizer), or None.
        special_ids: token ids of the merged config that differ from the host's, by key.
    """

    size: int
    tokens: int
    index: Mapping[str, Sequence[int]]
    filling: Mapping[int, Filling]
    keeper: str | None
    special_ids: Mapping[str, object]

    def rows(self, parent: str, name: str, read: Read) -> Tensor:
        """Return one parent's matrix with a row for every id of the merged vocabulary.

        Args:
            parent: reference of the parent.
            name: name of the tensor (matrix or bias) in the merged model.
            read: returns the same tensor of any parent, as it is on disk.

        Returns:
            Shape (size, ...), in the parent's dtype. If nothing changes, it is the tensor that
            `read` returned, not a copy.
        """
        import torch

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
    """Return the sum of the rows in float64, by fixed blocks: the same for any thread count."""
    import torch

    total = torch.zeros(matrix.shape[1:], dtype=torch.float64)
    for block in matrix.split(4096):  # type: ignore[no-untyped-call]
        total += block.double().sum(0)
    return total
