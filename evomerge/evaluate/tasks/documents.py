"""Which documents a search, a validation and a test use: disjoint, chosen once, frozen."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, TypeAlias

from evomerge.errors import ConfigError
from evomerge.scores import Split

Size: TypeAlias = int | Literal["all"]


@dataclass(frozen=True)
class Pool:
    """The documents that a split may take for a task.

    Attributes:
        source: the task and its split that they belong to; of one source, equal ids are equal
            documents.
        count: how many there are; their ids are 0 .. count - 1.
        forms: what a document says, in several forms. Two documents with a form in common are
            the same document.
        strata: a label for each document; every choice then holds the labels in proportion.
    """

    source: str
    count: int
    forms: Callable[[int], Sequence[str]] = lambda document: ()
    strata: Sequence[str] | None = None

    def known_as(self, document: int) -> tuple[str, ...]:
        """Return all forms of a document, its number among them."""
        return (f"{self.source} {document}", *self.forms(document))


def choose_documents(
    sizes: Mapping[Split, Size],
    pools: Mapping[Split, Mapping[str, Pool]],
    seed: int,
) -> dict[Split, dict[str, list[int]]]:
    """Choose the documents of every split, so that no two splits share one.

    Tasks that have documents in common get the same ones in the same split.

    Args:
        sizes: documents wanted of each task, by split; `all` takes what the others leave.
        pools: split -> task -> what to choose from.
        seed: decides the choice, together with the names of the tasks.

    Returns:
        split -> task -> ascending ids.

    Raises:
        ConfigError: the splits would share documents, or one would be empty.
    """
    for task in dict.fromkeys(task for of_split in pools.values() for task in of_split):
        _check_sizes(task, sizes, {s: pools[s][task] for s in sizes if task in pools[s]})
    chosen: dict[Split, dict[str, list[int]]] = {split: {} for split in sizes}
    owners: dict[str, Split] = {}
    for split in sorted(sizes, key=lambda split: sizes[split] == "all"):
        for task, pool in pools[split].items():
            order = in_order(pool.count, f"{seed}/{task}", pool.strata)
            ids = _take(pool, order, sizes[split], split, owners, first=not chosen[split])
            wanted = 1 if sizes[split] == "all" else int(sizes[split])
            if len(ids) < wanted:
                raise ConfigError(
                    f"`evaluation.{split}.documents` is {sizes[split]!r}, but only {len(ids)} of "
                    f"the {pool.count} documents of {pool.source!r} are in no other split; lower "
                    "the numbers, or take documents of another source."
                )
            owners |= {form: split for document in ids for form in pool.known_as(document)}
            chosen[split][task] = sorted(ids)
    return chosen


def _take(
    pool: Pool,
    order: Sequence[int],
    size: Size,
    split: Split,
    owners: Mapping[str, Split],
    *,
    first: bool,
) -> list[int]:
    """Return the first documents in an order that no other split has.

    Where the split has documents already (not `first`), those come before all others.
    """

    def has_owner(document: int, other: bool) -> bool:
        known = (owners.get(form) for form in pool.known_as(document))
        return any(owner is not None and (owner != split) == other for owner in known)

    free = (document for document in order if not has_owner(document, other=True))
    if size == "all":
        return list(free)
    if first:
        return list(islice(free, size))
    return sorted(free, key=lambda document: not has_owner(document, other=False))[:size]


def _check_sizes(
    task: str,
    sizes: Mapping[Split, Size],
    pools: Mapping[Split, Pool],
) -> None:
    """Refuse sizes that no choice can have."""
    for pool in {pool.source: pool for pool in pools.values()}.values():
        here = {split: sizes[split] for split in pools if pools[split].source == pool.source}
        greedy = [split for split, size in here.items() if size == "all"]
        if len(greedy) > 1:
            raise ConfigError(
                f"`evaluation.{greedy[1]}.documents` is 'all', and so is {greedy[0]}.documents: "
                f"the splits would share the documents of task {task!r}; give numbers, and `all` "
                "to one split at most, or let them take documents of different sources "
                "(`task_split`, `tasks`)."
            )
        needed = sum(size for size in here.values() if isinstance(size, int)) + len(greedy)
        if needed > pool.count:
            asked = " + ".join(f"{split}.documents {size}" for split, size in here.items())
            raise ConfigError(
                f"`evaluation` asks for {asked}, at least {needed} documents of {pool.source!r}, "
                f"but it has {pool.count}; the splits never share a document, so lower the numbers."
            )


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
