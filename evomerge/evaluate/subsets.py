"""Which documents a search, a validation and a test use: disjoint, chosen once, frozen."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from evomerge.errors import ConfigError
from evomerge.scores import Split

Size: TypeAlias = int | Literal["all"]


def split_documents(
    count: int,
    sizes: Mapping[Split, Size],
    seed: int,
    strata: Sequence[str] | None = None,
    *,
    task: str,
) -> dict[Split, list[int]]:
    """Split a task's documents into disjoint parts.

    Args:
        count: number of documents; their ids are 0 .. count - 1.
        sizes: documents wanted by split; `all` (for one split at most) takes what is left.
        seed: seed of the choice; task and seed alone decide it.
        strata: a label for each document; every part then holds the labels in proportion.
        task: the task's name, for the choice and for errors.

    Returns:
        ascending ids by split.

    Raises:
        ConfigError: the parts would overlap, or a part would be empty.
    """
    greedy = [split for split, size in sizes.items() if size == "all"]
    wanted = {split: size for split, size in sizes.items() if isinstance(size, int)}
    asked = " + ".join(f"{split} {size}" for split, size in sizes.items())
    if len(greedy) > 1:
        raise ConfigError(
            f"`evaluation.{greedy[1]}.documents` is 'all', and so is {greedy[0]}'s: the splits "
            f"would share the documents of task {task!r}; give numbers, and `all` to one split at "
            f"most."
        )
    needed = sum(wanted.values()) + len(greedy)
    if needed > count:
        raise ConfigError(
            f"`evaluation` asks for {asked} documents of task {task!r}, at least {needed}, but it "
            f"has {count}; the splits never share a document, so lower the numbers."
        )
    order = in_order(count, f"{seed}/{task}", strata)
    parts: dict[Split, list[int]] = {}
    position = 0
    for split, size in wanted.items():
        parts[split] = sorted(order[position : position + size])
        position += size
    for split in greedy:
        parts[split] = sorted(order[position:])
    return parts


def in_order(count: int, key: str, strata: Sequence[str] | None = None) -> list[int]:
    """Return ids 0 .. count - 1 in a random order that `key` alone decides.

    With strata every stretch of the order holds the labels about in proportion.
    """
    generator = random.Random(key)
    order = list(range(count))
    generator.shuffle(order)
    if strata is None:
        return order
    members: dict[str, list[int]] = {}
    for document in order:
        members.setdefault(strata[document], []).append(document)
    place = {
        document: ((rank + 0.5) / len(group), label)
        for label, group in members.items()
        for rank, document in enumerate(group)
    }
    return sorted(order, key=place.__getitem__)


def rotating(
    ids: Sequence[int], size: int, turn: int, key: str, strata: Sequence[str] | None = None
) -> list[int]:
    """Return the subset of a turn: every document comes once before any comes again.

    A search that ranks each generation on other documents cannot fit itself to any of them.

    Args:
        ids: the documents to choose from.
        size: documents in a subset, 1 .. len(ids).
        turn: number of the generation, from 0.
        key: decides the choice, together with the turn.
        strata: a label for each of the ids; every subset holds the labels about in proportion.

    Returns:
        ascending ids.
    """
    turns = len(ids) // size  # until all have come; what is left over comes in the next round
    order = in_order(len(ids), f"{key}/{turn // turns}", strata)
    start = turn % turns * size
    return sorted(ids[i] for i in order[start : start + size])
