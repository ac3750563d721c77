"""A beginning that many rows share (few-shot examples, a description), read once for all of them.

Where a task takes the same examples for every document, they are most of every row. Their keys and
values are computed once for a model; the rows go on from copies. What is computed for a token is
what it would be in a row of its own, but for rounding.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, TypeAlias

import torch
from torch import Tensor

from evomerge.evaluate.inference.generation import cache_argument
from evomerge.evaluate.inference.rows import Row

Prefix: TypeAlias = tuple[int, ...]

SHORTEST = 48  # tokens; a shorter beginning is not worth a pass of its own
FEWEST = 3  # rows
_DEEPEST = 100  # times that a group is cut into smaller ones


def by_prefix(rows: Sequence[Row]) -> Iterator[tuple[Prefix, list[Row]]]:
    """Yield rows without the beginning that they share, and that beginning.

    Rows that share none come with an empty one. A row keeps at least the tokens that predict its
    targets. Of the ways to group rows, each by all that its rows share, one that spares most
    tokens is taken.
    """
    order = sorted(range(len(rows)), key=lambda i: rows[i].tokens)
    ordered = [rows[i] for i in order]
    starts = [row.tokens[: _first_place(row)] for row in ordered]
    shared = [0, *(_common(one, other) for one, other in pairwise(starts))]
    alone = set(order)
    for first, last, length in _groups(shared, 0, len(ordered))[1]:
        group = ordered[first:last]
        alone -= set(order[first:last])
        yield tuple(group[0].tokens[:length]), [_behind(row, length) for row in group]
    if alone:
        yield (), [rows[i] for i in sorted(alone)]


def _groups(
    shared: Sequence[int], first: int, last: int, depth: int = 0
) -> tuple[int, list[tuple[int, int, int]]]:
    """Return how many tokens are spared at most in a stretch of sorted rows, and how.

    Args:
        shared: tokens that each row shares with the one before.

    Returns:
        tokens spared, and groups as (first row, row after the last, tokens shared).
    """
    length = min(shared[first + 1 : last], default=0)
    if last - first < FEWEST:
        return 0, []
    whole = (last - first - 1) * length if length >= SHORTEST else 0
    groups = [(first, last, length)] if whole else []
    if depth == _DEEPEST:
        return whole, groups
    cuts = [first, *(i for i in range(first + 1, last) if shared[i] == length), last]
    parts = [_groups(shared, a, b, depth + 1) for a, b in pairwise(cuts)]
    spared = sum(part[0] for part in parts)
    if spared > whole:
        return spared, [group for part in parts for group in part[1]]
    return whole, groups


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    for index, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return index
    return min(len(one), len(other))


def _first_place(row: Row) -> int:
    """Return where a row's own part begins at the latest: its first branch, or scored position."""
    branch = row.branch.index(1) if 1 in row.branch else len(row)
    return min(branch, *(place for places in row.places for place in places))


def _behind(row: Row, count: int) -> Row:
    return replace(
        row,
        tokens=row.tokens[count:],
        positions=row.positions[count:],
        branch=row.branch[count:],
        places=[[place - count for place in places] for places in row.places],
    )


class Prefixes:
    """The keys and values of one model's prefixes; the last one is kept.

    Args:
        model: the model, as its weights are now.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._prefix: Prefix = ()
        self._layers: list[tuple[Tensor, Tensor]] = []

    def cache(self, prefix: Prefix, rows: int) -> Any:
        """Return a cache of that many rows behind a prefix, to be written to."""
        from transformers import DynamicCache

        if prefix != self._prefix:
            self._read(prefix)
        cache = DynamicCache()
        for index, (keys, values) in enumerate(self._layers):
            cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), index)
        return cache

    def _read(self, prefix: Prefix) -> None:
        from transformers import DynamicCache

        self._prefix, self._layers = (), []
        cache: Any = DynamicCache()
        known = inspect.signature(self.model.forward).parameters
        options: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in known else {}
        options[cache_argument(self.model)] = cache
        tokens = torch.tensor([prefix], device=self.model.device)
        self.model(input_ids=tokens, use_cache=True, **options)
        self._layers = [(layer.keys, layer.values) for layer in cache.layers]
        if not self._layers:
            raise ValueError("this model keeps no keys and values")
        self._prefix = prefix
