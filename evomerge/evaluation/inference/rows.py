"""Rows: token sequences that a model reads to score continuations, a shared context only once.

The requests of one document (the choices of a question) are packed into one row: the tokens that
all of them begin with, then the remaining tokens of each request as a branch. The last token of a
continuation is predicted but never read, so requests that differ only in that token need no
branches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

_LONGEST_PACKED = 2048  # tokens; the cost of attention grows with the square of the row's length


@dataclass(frozen=True)
class Continuation:
    """A continuation whose log-likelihood after its context is wanted.

    Attributes:
        tokens: the model's input: the context and the continuation without its last token,
            truncated from the left to the model's maximum length.
        targets: the tokens of the continuation; the last of `tokens` predicts `targets[-1]`.
    """

    tokens: tuple[int, ...]
    targets: tuple[int, ...]

    @classmethod
    def of(cls, context: Sequence[int], continuation: Sequence[int], longest: int) -> Continuation:
        """Return a continuation, truncated as in `HFLM._loglikelihood_tokens`.

        Args:
            longest: the maximum number of tokens that the model can read.
        """
        whole = [*context, *continuation][-(longest + 1) :]
        return cls(tuple(whole[:-1]), tuple(continuation[-len(whole) + 1 :]))


@dataclass
class Row:
    """One row of tokens, and which of its columns predict which targets.

    Attributes:
        tokens: the shared prefix, then the branches one after the other.
        positions: the position id of each token; every branch counts on from the prefix.
        branch: for each token, 0 in the prefix and i in the i-th branch.
        indices: the indices of the continuations that this row scores.
        columns: for each of these, the columns that predict its targets.
        targets: for each of these, its targets.
    """

    tokens: list[int]
    positions: list[int]
    branch: list[int]
    indices: list[int] = field(default_factory=list)
    columns: list[list[int]] = field(default_factory=list)
    targets: list[tuple[int, ...]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.tokens)


def pack(continuations: Sequence[Continuation], indices: Sequence[int]) -> list[Row]:
    """Return rows that score the continuations of one document after their common prefix.

    This is one row, unless it would be longer than 2,048 tokens.

    Args:
        indices: the index of each continuation, by which its log-likelihood is returned.
    """
    prefix = _common_prefix([continuation.tokens for continuation in continuations])
    rows: list[Row] = []
    branches: dict[tuple[int, ...], list[int]] = {}
    for index, continuation in zip(indices, continuations, strict=True):
        rest = continuation.tokens[prefix:]
        if not rows or len(rows[-1]) + len(rest) > max(_LONGEST_PACKED, prefix + len(rest)):
            head = list(continuations[0].tokens[:prefix])
            rows.append(Row(head, list(range(prefix)), [0] * prefix))
            branches = {}
        row = rows[-1]
        if rest and rest not in branches:
            start = len(row)
            branches[rest] = list(range(start, start + len(rest)))
            row.tokens += rest
            row.positions += range(prefix, prefix + len(rest))
            row.branch += [len(branches)] * len(rest)
        columns = [*range(prefix), *branches.get(rest, ())]
        row.indices.append(index)
        row.columns.append(columns[len(columns) - len(continuation.targets) :])
        row.targets.append(continuation.targets)
    return rows


def separate(continuations: Sequence[Continuation], indices: Sequence[int]) -> list[Row]:
    """Return one row for each different input; this works with every architecture."""
    rows: dict[tuple[int, ...], Row] = {}
    for index, continuation in zip(indices, continuations, strict=True):
        length = len(continuation.tokens)
        row = rows.setdefault(
            continuation.tokens, Row(list(continuation.tokens), list(range(length)), [0] * length)
        )
        row.indices.append(index)
        row.columns.append(list(range(length - len(continuation.targets), length)))
        row.targets.append(continuation.targets)
    return list(rows.values())


def _common_prefix(sequences: Sequence[tuple[int, ...]]) -> int:
    first, last = min(sequences), max(sequences)
    for index, (a, b) in enumerate(zip(first, last, strict=False)):
        if a != b:
            return index
    return min(len(first), len(last))
