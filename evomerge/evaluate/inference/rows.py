"""Rows: what a model reads to score continuations, each shared prompt once.

The requests of one document become one row: their common prefix, then the rest of each request
as a branch. Requests that differ in their last (scored, never read) token only are the same row
without branches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

_LONGEST_PACKED = 2048  # tokens; attention over a packed row costs the square of its length


@dataclass(frozen=True)
class Continuation:
    """A continuation to be scored after its context.

    Attributes:
        tokens: what the model reads: context and continuation without its last token, cut from
            the left to the model's length.
        targets: the continuation; `targets[-1]` is predicted by the last of `tokens`.
    """

    tokens: tuple[int, ...]
    targets: tuple[int, ...]

    @classmethod
    def of(cls, context: Sequence[int], continuation: Sequence[int], longest: int) -> Continuation:
        """Return the continuation as lm-eval's HFLM asks it (`_loglikelihood_tokens`)."""
        whole = [*context, *continuation][-(longest + 1) :]
        return cls(tuple(whole[:-1]), tuple(continuation[-len(whole) + 1 :]))


@dataclass
class Row:
    """What the model reads in one row, and where its answers lie.

    Attributes:
        tokens: the prefix, then the branches one after the other.
        positions: position of each token in its own sequence.
        branch: 0 for the prefix, i for the i-th branch.
        numbers: which continuations are answered here.
        places: for each of them, the columns that predict its targets.
        targets: for each of them, the targets.
    """

    tokens: list[int]
    positions: list[int]
    branch: list[int]
    numbers: list[int] = field(default_factory=list)
    places: list[list[int]] = field(default_factory=list)
    targets: list[tuple[int, ...]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.tokens)


def pack(continuations: Sequence[Continuation], numbers: Sequence[int]) -> list[Row]:
    """Return the rows that answer the continuations of one document together.

    Args:
        numbers: a number for each continuation, by which its answer is found.
    """
    prefix = _common_prefix([continuation.tokens for continuation in continuations])
    rows: list[Row] = []
    branches: dict[tuple[int, ...], list[int]] = {}
    for number, continuation in zip(numbers, continuations, strict=True):
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
        row.numbers.append(number)
        row.places.append(columns[len(columns) - len(continuation.targets) :])
        row.targets.append(continuation.targets)
    return rows


def separate(continuations: Sequence[Continuation], numbers: Sequence[int]) -> list[Row]:
    """Return one row for each continuation, equal inputs once; right for every architecture."""
    rows: dict[tuple[int, ...], Row] = {}
    for number, continuation in zip(numbers, continuations, strict=True):
        length = len(continuation.tokens)
        row = rows.setdefault(
            continuation.tokens, Row(list(continuation.tokens), list(range(length)), [0] * length)
        )
        row.numbers.append(number)
        row.places.append(list(range(length - len(continuation.targets), length)))
        row.targets.append(continuation.targets)
    return list(rows.values())


def _common_prefix(sequences: Sequence[tuple[int, ...]]) -> int:
    first, last = min(sequences), max(sequences)
    for index, (a, b) in enumerate(zip(first, last, strict=False)):
        if a != b:
            return index
    return min(len(first), len(last))
