"""Prefixes that many rows share (few-shot examples, a description), computed once for all of them.

If a task uses the same few-shot examples for every document, they are most of each row. Their keys
and values are computed once for a model, and the rows continue from copies of them. The results
are the same as without sharing, up to rounding.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, TypeAlias

import torch
from torch import Tensor

from evomerge.evaluation.inference.generation import cache_argument
from evomerge.evaluation.inference.rows import Row

Prefix: TypeAlias = tuple[int, ...]

MIN_TOKENS = 48  # of a shared prefix; a shorter one is not worth a forward pass of its own
MIN_ROWS = 3  # that share a prefix
_MAX_DEPTH = 100  # of groups within groups, to bound the recursion


def by_prefix(rows: Sequence[Row]) -> Iterator[tuple[Prefix, list[Row]]]:
    """Group rows by shared prefixes; yield each prefix and its rows without it.

    Rows that share no prefix come last, with an empty one. A row always keeps the tokens that
    predict its targets. Of all groupings in which each group shares its longest common prefix,
    one that saves most tokens is chosen.
    """
    order = sorted(range(len(rows)), key=lambda i: rows[i].tokens)
    ordered = [rows[i] for i in order]
    starts = [row.tokens[: _shareable(row)] for row in ordered]
    shared = [0, *(_common(one, other) for one, other in pairwise(starts))]
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


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    for index, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return index
    return min(len(one), len(other))


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


class PrefixCache:
    """Computes the keys and values of prefixes, and keeps those of the last one.

    Args:
        model: the model; its weights must not change while this object is in use.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._prefix: Prefix = ()
        self._layers: list[tuple[Tensor, Tensor]] = []

    def cache(self, prefix: Prefix, rows: int) -> Any:
        """Return a new transformers cache that holds a prefix for `rows` rows."""
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
            raise ValueError("the model has no cache of keys and values")
        self._prefix = prefix
