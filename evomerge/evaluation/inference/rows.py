"""Rows: token sequences that a model reads to score continuations, a shared context only once.

The requests of one document (the choices of a question) are packed into one row: the tokens that
all of them begin with, then the remaining tokens of each request as a branch. The last token of a
continuation is predicted but never read, so requests that differ only in that token need no
branches.

Rows of many documents may begin alike, too (few-shot examples, a description). Such a prefix is
computed once for all of them (`by_prefix`); the results are the same up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TypeAlias

Prefix: TypeAlias = tuple[int, ...]
"""Tokens before the rows of a group."""

MIN_TOKENS = 48  # of a shared prefix; a shorter one is not worth a forward pass of its own
MIN_ROWS = 3  # that share a prefix
_LONGEST_PACKED = 2048  # tokens; the cost of attention grows with the square of the row's length
_MAX_DEPTH = 100  # of groups within groups, to bound the recursion


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

    @classmethod
    def plain(cls, tokens: Sequence[int]) -> Row:
        """Return a row without branches, which scores nothing yet."""
        return cls(list(tokens), list(range(len(tokens))), [0] * len(tokens))

    def __len__(self) -> int:
        return len(self.tokens)

    def add(self, index: int, columns: Sequence[int], targets: tuple[int, ...]) -> None:
        """Score a continuation too; the last of the columns predict its targets."""
        self.indices.append(index)
        self.columns.append(list(columns[len(columns) - len(targets) :]))
        self.targets.append(targets)


def pack(continuations: Sequence[Continuation], indices: Sequence[int]) -> list[Row]:
    """Return rows that score the continuations of one document after their common prefix.

    This is one row, unless it would be longer than 2,048 tokens.

    Args:
        indices: the index of each continuation, by which its log-likelihood is returned.
    """
    inputs = [continuation.tokens for continuation in continuations]
    prefix = common(min(inputs), max(inputs))
    rows: list[Row] = []
    branches: dict[tuple[int, ...], list[int]] = {}
    for index, continuation in zip(indices, continuations, strict=True):
        rest = continuation.tokens[prefix:]
        if not rows or len(rows[-1]) + len(rest) > max(_LONGEST_PACKED, prefix + len(rest)):
            rows.append(Row.plain(inputs[0][:prefix]))
            branches = {}
        row = rows[-1]
        if rest and rest not in branches:
            start = len(row)
            branches[rest] = list(range(start, start + len(rest)))
            row.tokens += rest
            row.positions += range(prefix, prefix + len(rest))
            row.branch += [len(branches)] * len(rest)
        row.add(index, [*range(prefix), *branches.get(rest, ())], continuation.targets)
    return rows


def separate(continuations: Sequence[Continuation], indices: Sequence[int]) -> list[Row]:
    """Return one row for each different input; this works with every architecture."""
    rows: dict[tuple[int, ...], Row] = {}
    for index, continuation in zip(indices, continuations, strict=True):
        tokens = continuation.tokens
        row = rows.setdefault(tokens, Row.plain(tokens))
        row.add(index, range(len(tokens)), continuation.targets)
    return list(rows.values())


def common(one: Sequence[object], other: Sequence[object]) -> int:
    """Return how many first items two sequences have in common."""
    for index, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return index
    return min(len(one), len(other))


def by_prefix(rows: Sequence[Row]) -> Iterator[tuple[Prefix, list[Row]]]:
    """Group rows by shared prefixes; yield each prefix and its rows without it.

    Rows that share no prefix come last, with an empty one. A row always keeps the tokens that
    predict its targets. Of all groupings in which each group shares its longest common prefix,
    one that saves most tokens is chosen.
    """
    order = sorted(range(len(rows)), key=lambda i: rows[i].tokens)
    ordered = [rows[i] for i in order]
    starts = [row.tokens[: _shareable(row)] for row in ordered]
    shared = [0, *(common(one, other) for one, other in pairwise(starts))]
    alone = set(order)
    for first, last, length in _groups(shared, 0, len(ordered))[1]:
        group = ordered[first:last]
        alone -= set(order[first:last])
        yield tuple(group[0].tokens[:length]), [_without(row, length) for row in group]
    if alone:
        yield (), [rows[i] for i in sorted(alone)]


def _groups(
    shared: Sequence[int], first: int, last: int, depth: int = 0
) -> tuple[int, list[tuple[int, int, int]]]:
    """Return the grouping of sorted rows `first` .. `last - 1` that saves most tokens.

    Args:
        shared: for each row, how many first tokens it has in common with the row before it.

    Returns:
        tokens saved, and groups as (first row, row after the last, tokens shared).
    """
    length = min(shared[first + 1 : last], default=0)
    if last - first < MIN_ROWS:
        return 0, []
    whole = (last - first - 1) * length if length >= MIN_TOKENS else 0
    groups = [(first, last, length)] if whole else []
    if depth == _MAX_DEPTH:
        return whole, groups
    cuts = [first, *(i for i in range(first + 1, last) if shared[i] == length), last]
    parts = [_groups(shared, a, b, depth + 1) for a, b in pairwise(cuts)]
    saved = sum(part[0] for part in parts)
    if saved > whole:
        return saved, [group for part in parts for group in part[1]]
    return whole, groups


def _shareable(row: Row) -> int:
    """Return how many first tokens of a row may be shared: up to its first branch or target."""
    branch = row.branch.index(1) if 1 in row.branch else len(row)
    return min(branch, *(column for columns in row.columns for column in columns))


def _without(row: Row, count: int) -> Row:
    """Return a row without its first `count` tokens."""
    return replace(
        row,
        tokens=row.tokens[count:],
        positions=row.positions[count:],
        branch=row.branch[count:],
        columns=[[column - count for column in columns] for columns in row.columns],
    )
